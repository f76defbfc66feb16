"""The house stands as it was drawn: who may import whom, what each room says of itself, and no junk drawers."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeyolo.backends import list_packages
from edgeyolo.spec.deploying import DeployOptions, EvaluateOptions
from edgeyolo.spec.detecting import Thresholds

PACKAGE = Path(__file__).parents[1] / "edgeyolo"
GROUND_FLOOR = (
    ("spec",),
    ("geometry",),
    ("heads", "tracking"),
    ("data", "bundle", "graph"),
    ("backends",),
    ("handoffs",),
    ("runtime",),
    ("evaluation", "latency", "live"),
    ("boards",),
)
UPSTAIRS = (
    ("nn",),
    ("assigners", "losses"),
    ("criteria",),
    ("weights",),
    ("models",),
    ("training",),
    ("quantization",),
    ("export",),
    ("report",),
)
RANK = {room: rank for rank, rooms in enumerate((*GROUND_FLOOR, *UPSTAIRS)) for room in rooms}
GROUND_ROOMS = [room for rooms in GROUND_FLOOR for room in rooms]
VENDORS = {"onnx", "onnxslim", "pycocotools", "modelopt", "tensorrt", *(p.module for p in list_packages())}
JUNK_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "core", "manager", "tools"}
FILES = sorted(PACKAGE.rglob("*.py"))
OPTIONS = [frozenset(kind.__struct_fields__) for kind in (DeployOptions, EvaluateOptions, Thresholds)]
LONGEST_FILE, LONGEST_FUNCTION, MOST_ARGUMENTS = 400, 60, 7


def room_of(path: Path) -> str:
    """First folder below the package, or the module itself for those at its top."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted names that a module or function imports, with line numbers; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def module_name(path: Path) -> str:
    """Such as "edgeyolo.heads" of edgeyolo/heads/__init__.py."""
    return ".".join(("edgeyolo", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def module_level(tree: ast.Module) -> ast.Module:
    """The module without its functions and without `if TYPE_CHECKING`: what runs when it is imported."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    return Strip().visit(tree)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    wrong = []
    for name, line in imports_of(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "torch" and room in GROUND_ROOMS:
            wrong.append(f"line {line}: torch on the ground floor")
        if top != "edgeyolo" or room not in RANK or other == room:
            continue
        if other in ("cli", "verbs") or (other in RANK and RANK[other] >= RANK[room]):
            wrong.append(f"line {line}: {room} imports {other}")
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_private_stays_in_its_room(path: Path) -> None:
    """Neither a module nor a name with a leading underscore is imported from another room."""
    wrong = []
    for name, line in imports_of(ast.parse(path.read_text())):
        top, room, *rest = name.split(".") if name.count(".") else (name, "")
        if top == "edgeyolo" and room != room_of(path) and any(is_private(part) for part in rest):
            wrong.append(f"line {line}: {name}")
    assert not wrong


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Imports inside functions count too; only those for type checkers do not, nor what the package offers lazily."""
    left = {name: runtime_imports(path) for name, path in MODULES.items() if name != "edgeyolo"}
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert not left, f"in circles, or on the way to one: {sorted(left)}"


def runtime_imports(path: Path) -> set[str]:
    """Modules of ours that a module imports, at once or when a function of it runs."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = {name if name in MODULES else name.rpartition(".")[0] for name, _ in imports_of(tree)}
    return found & MODULES.keys() - {module_name(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_vendor_packages_are_imported_where_they_are_used(path: Path) -> None:
    names = {name.partition(".")[0] for name, _ in imports_of(module_level(ast.parse(path.read_text())))}
    if room_of(path) in (*GROUND_ROOMS, "cli", "verbs", "__init__", "__main__"):
        assert not names & VENDORS


def test_cli_and_verbs_load_a_stage_only_when_it_is_used() -> None:
    for path in FILES:
        if room_of(path) not in ("cli", "verbs", "__init__", "__main__"):
            continue
        for name, line in imports_of(module_level(ast.parse(path.read_text()))):
            parts = name.split(".")
            where = f"{path.name}, line {line}: {name}"
            assert parts[0] not in ("torch", "cv2", "numpy"), where
            assert parts[0] != "edgeyolo" or parts[1] in ("__version__", "cli", "spec", "verbs"), where


def test_ground_floor_imports_where_there_is_no_torch() -> None:
    modules = [name for name, path in MODULES.items() if room_of(path) in GROUND_ROOMS]
    assert modules
    imports = "\n".join(f"import {name}" for name in modules)
    assert run_python(f"import sys; sys.modules['torch'] = None\n{imports}\nprint('imported')") == "imported\n"


def test_help_needs_neither_torch_nor_opencv_nor_numpy() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'cv2', 'numpy', 'onnx', 'ncnn']))"
    text = run_python(f"{blocked}; sys.argv = ['edgeyolo', '--help']; from edgeyolo.cli.app import main; main()")
    assert "quantize" in text


@pytest.mark.parametrize("room", [*RANK, "verbs", "cli"])
def test_every_room_says_what_enters_and_leaves(room: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    assert "In:" in text
    assert "Out:" in text
    assert "Verb:" in text


def test_every_folder_is_a_room_that_is_known() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert folders == {*RANK, "cli", "verbs"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_junk_drawers(path: Path) -> None:
    text = path.read_text()
    assert path.stem.strip("_") not in JUNK_NAMES
    assert len(text.splitlines()) < LONGEST_FILE
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is"
    names = [function.name for function in functions_of(tree)]
    assert not [name for name in names if name.lstrip("_").startswith(("get_", "do_", "process_"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_are_short_and_take_few_arguments(path: Path) -> None:
    """Lines from `def` to the last; arguments without the object or class that a method belongs to.

    A function that takes every field of a struct of options by name says in Python what a command's flags say: they
    count as one.
    """
    functions = functions_of(ast.parse(path.read_text()))
    long = {f.name: lines for f in functions if (lines := (f.end_lineno or 0) - f.lineno + 1) >= LONGEST_FUNCTION}
    assert not long
    many = {f.name: count for f in functions if (count := count_arguments(f)) > MOST_ARGUMENTS}
    assert not many


def functions_of(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def count_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = set(arguments_of(function))
    by_name = {argument.arg for argument in function.args.kwonlyargs}
    together = [fields for fields in OPTIONS if fields <= by_name]
    return len(names.difference(*together)) + len(together)


def arguments_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
