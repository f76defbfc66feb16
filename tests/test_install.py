"""The wheel carries the shelves, and they are found where it is unpacked."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SHIPPED_KINDS = ("*.py", "*.j2", "*.toml", "*.json")
SHIPPED = ("edgeyolo", "targets", "calib", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--wheel-dir", str(built)]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = built.glob("edgeyolo-*.whl")
    return path


def test_wheel_carries_every_module_and_every_toml(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    package = ROOT / "edgeyolo"
    modules = {str(path.relative_to(ROOT)) for kind in SHIPPED_KINDS for path in package.rglob(kind)}
    tomls = {
        f"edgeyolo/_{path.parent.name}/{path.name}" for shelf in ("targets", "calib") for path in shelf_files(shelf)
    }
    assert modules <= inside
    assert tomls <= inside
    assert "edgeyolo/py.typed" in inside
    assert not [name for name in inside if name.startswith("tests")]


def test_shelves_are_found_in_an_unpacked_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import edgeyolo\n"
        f"assert edgeyolo.__file__.startswith({str(tmp_path)!r}), edgeyolo.__file__\n"
        "from edgeyolo.spec.target import list_targets, load_target\n"
        "from edgeyolo.spec.recipe import list_recipes, load_recipe\n"
        "[load_target(name) for name in list_targets()], [load_recipe(name) for name in list_recipes()]\n"
        "print(*list_targets(), *list_recipes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [path.stem for shelf in ("targets", "calib") for path in shelf_files(shelf)]


def test_every_floor_is_a_version_that_the_oldest_environment_has(wheel: Path) -> None:
    """`tests/oldest.txt` is what `make test-oldest` runs on; tools of development are pinned in constraints.txt."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = Parser().parsestr(archive.read(name).decode())
    needed = [Requirement(text) for text in described.get_all("Requires-Dist", [])]
    floors = {
        canonicalize_name(need.name): next(part.version for part in need.specifier if part.operator == ">=")
        for need in needed
        if need.marker is None or "extra" not in str(need.marker) or 'extra == "dev"' not in str(need.marker)
    }
    lines = [line for line in (ROOT / "tests/oldest.txt").read_text().splitlines() if not line.startswith("#")]
    oldest = {canonicalize_name(found.name): str(found.specifier) for found in map(Requirement, lines)}
    assert floors.keys() == oldest.keys()
    for package, floor in floors.items():
        version = oldest[package].removeprefix("==")
        assert Version(version) in SpecifierSet(f"=={floor}.*"), f"{package}>={floor}, and {version} was tested"


def shelf_files(shelf: str) -> list[Path]:
    """The TOML files of a shelf in the checkout, by name."""
    return sorted((ROOT / shelf).glob("*.toml"), key=lambda path: path.stem)
