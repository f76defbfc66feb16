"""Wheels that a board's Python can use, found here: the board itself needs neither pip nor a network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from edgeyolo.boards.own_wheel import write_own_wheel
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import BoardError, MissingPackageError
from edgeyolo.spec.progress import SILENT, Progress

_DISTRIBUTION = "edgeyolo"
_collecting = threading.Lock()  # boards that are worked on side by side find what the first of them fetched
# glibc version -> the name that wheels had for it before the name was the version.
_OLDER_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


class BoardPython:
    """What a board's Python can install.

    Args:
        facts: see `agent.describe`.

    Attributes:
        name: for people, such as "aarch64, Python 3.11".
        machine: its architecture, as Linux names it.
        version: such as (3, 11).
        platforms: names of platforms in wheels, best first.

    Raises:
        BoardError: not a Linux with CPython.
    """

    def __init__(self, facts: dict[str, Any], *, where: object = "") -> None:
        self._markers: dict[str, str] = facts["markers"]
        major, minor = map(int, self._markers["python_version"].split("."))
        self.version = (major, minor)
        libc, libc_version = facts["libc"]
        machine = self._markers["platform_machine"]
        if machine == "aarch64" and facts["bits"] == 32:
            machine = "armv7l"
        self.machine = machine
        self.name = f"{machine}, Python {major}.{minor}"
        if self._markers["sys_platform"] != "linux" or self._markers["implementation_name"] != "cpython":
            kind = f"{self._markers['platform_python_implementation']} on {self._markers['platform_system']}"
            raise BoardError(f"has {kind}", where=where, hint="Boards run Linux and CPython")
        self.platforms = tuple(_list_platforms(machine, libc, libc_version))
        self._tags = frozenset(self._list_tags())

    def fits(self, wheel: str) -> bool:
        """Whether a wheel of this file name can be used."""
        return not self._tags.isdisjoint(parse_wheel_filename(wheel)[3])

    def applies(self, requirement: Requirement, extras: Iterable[str] = ()) -> bool:
        """Whether a requirement holds there, for a package that is wanted with these extras."""
        marker = requirement.marker
        return marker is None or any(marker.evaluate({**self._markers, "extra": extra}) for extra in (*extras, ""))

    def _list_tags(self) -> Iterator[Tag]:
        interpreter = f"cp{self.version[0]}{self.version[1]}"
        yield from cpython_tags(self.version, platforms=self.platforms)
        yield from compatible_tags(self.version, interpreter=interpreter, platforms=self.platforms)


def _list_platforms(machine: str, libc: str, libc_version: str) -> Iterator[str]:
    if libc == "glibc":
        for minor in range(int(libc_version.split(".")[1]), 4, -1):
            yield f"manylinux_2_{minor}_{machine}"
            if minor in _OLDER_NAMES:
                yield f"{_OLDER_NAMES[minor]}_{machine}"
    else:
        yield from (f"musllinux_1_{minor}_{machine}" for minor in (2, 1))
    yield f"linux_{machine}"


def collect_wheels(
    extras: Sequence[str], python: BoardPython, *, wheelhouse: Path | None = None, progress: Progress = SILENT
) -> list[Path]:
    """Wheels of edgeyolo, as it is here, and of all that it needs on the board.

    What was found is kept, so that the next time neither pip nor a network is needed.

    Args:
        extras: of edgeyolo, such as "ncnn".
        wheelhouse: folder of wheels that are taken instead of those of pip's index.

    Raises:
        BoardError: a package has no wheel for this board, or only one for another. MissingPackageError: pip is not
            installed here.
    """
    with _collecting:
        return _collect(extras, python, wheelhouse, progress)


def _collect(extras: Sequence[str], python: BoardPython, wheelhouse: Path | None, progress: Progress) -> list[Path]:
    own = write_own_wheel(cache_folder("wheels"))
    needed = [requirement for requirement in _own_requirements() if python.applies(requirement, extras)]
    told = json.dumps([sorted(map(str, needed)), python.version, python.platforms, str(wheelhouse or "")])
    kept = cache_folder("wheels") / hashlib.sha256(told.encode()).hexdigest()[:16]
    index = kept / "wheels.json"
    if wheelhouse is None and index.is_file():
        names = json.loads(index.read_bytes())
        if all((kept / name).is_file() for name in names):
            return [own, *(kept / name for name in names)]
    kept.mkdir(parents=True, exist_ok=True)
    found = _resolve(needed, python, kept, wheelhouse, progress)
    write_file(index, json.dumps([path.name for path in found]).encode())
    return [own, *found]


def _own_requirements() -> list[Requirement]:
    return [Requirement(line) for line in importlib.metadata.requires(_DISTRIBUTION) or []]


def _resolve(
    needed: list[Requirement], python: BoardPython, folder: Path, wheelhouse: Path | None, progress: Progress
) -> list[Path]:
    """Fetch what is needed, then what that needs, until nothing is.

    pip would ask the markers of this computer's Python instead of the board's, so it fetches single packages only.
    """
    wanted: dict[str, Requirement] = {}
    found: dict[str, Path] = {}
    while needed:
        for requirement in needed:
            name = canonicalize_name(requirement.name)
            if name in wanted:
                requirement.specifier &= wanted[name].specifier
                requirement.extras |= wanted[name].extras
            wanted[name] = requirement
            if name in found and parse_wheel_filename(found[name].name)[1] not in requirement.specifier:
                del found[name]
        missing = [name for name in wanted if name not in found]
        progress.step(f"wheels for {python.name}", len(found), len(wanted))
        for path in _fetch([wanted[name] for name in missing], python, folder, wheelhouse):
            found[parse_wheel_filename(path.name)[0]] = path
        needed = [
            requirement
            for name in missing
            for requirement in _read_requirements(found[name])
            if python.applies(requirement, wanted[name].extras) and not _is_met(requirement, wanted, found)
        ]
    progress.step(f"wheels for {python.name}", len(found), len(wanted))
    return list(found.values())


def _is_met(requirement: Requirement, wanted: dict[str, Requirement], found: dict[str, Path]) -> bool:
    name = canonicalize_name(requirement.name)
    if name not in found or not requirement.extras <= wanted[name].extras:
        return False
    return parse_wheel_filename(found[name].name)[1] in requirement.specifier


def _read_requirements(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(name).decode())
    return [Requirement(line) for line in headers.get_all("Requires-Dist") or []]


def _fetch(
    requirements: Sequence[Requirement], python: BoardPython, folder: Path, wheelhouse: Path | None
) -> list[Path]:
    """Have pip choose and download a wheel of each."""
    if not requirements:
        return []
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as work:
        major, minor = python.version
        kinds = ["--only-binary=:all:", "--implementation=cp", f"--python-version={major}.{minor}"]
        kinds += [f"--platform={name}" for name in python.platforms]
        kinds += [f"--abi={abi}" for abi in (f"cp{major}{minor}", "abi3", "none")]
        sources = ["--no-index", "--isolated", f"--find-links={wheelhouse}"] if wheelhouse is not None else []
        bare = [f"{requirement.name}{requirement.specifier}" for requirement in requirements]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(
            [*command, *kinds, *sources, "--dest", work, *bare],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if "No module named pip" in done.stderr:
            raise MissingPackageError("pip", needed_for="wheels for a board", install=f"{sys.executable} -m ensurepip")
        if done.returncode != 0:
            raise _explain(done.stderr, python, wheelhouse)
        return [path.replace(folder / path.name) for path in sorted(Path(work).glob("*.whl"))]


def _explain(said: str, python: BoardPython, wheelhouse: Path | None) -> BoardError:
    """Why there is no wheel: none at all, or one for another kind of board."""
    lacking = re.search(r"No matching distribution found for ([\w.-]+)", said)
    if lacking is None:
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "pip said nothing")
        return BoardError(f"wheels could not be fetched ({last.removeprefix('ERROR: ')})", where=wheelhouse or "")
    name = canonicalize_name(lacking[1])
    here = wheelhouse.glob("*.whl") if wheelhouse is not None else ()
    others = [path.name for path in here if parse_wheel_filename(path.name)[0] == name and not python.fits(path.name)]
    if others:
        return BoardError(
            f"{', '.join(sorted(others))} cannot run on the board, which is {python.name}",
            where=wheelhouse,
            hint=f"Put a wheel of {name} for the board there: pip download, with --platform and --python-version",
        )
    return BoardError(
        f"there is no wheel of {name} for {python.name}",
        where=wheelhouse or "",
        hint="Fetch wheels where there is a network, and name their folder: --wheelhouse",
    )
