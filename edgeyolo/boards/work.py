"""What is done at a board: an environment made once, a bundle timed or scored in it, a bundle put in its place."""

from __future__ import annotations

import json
import posixpath
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeyolo.backends import load_engine
from edgeyolo.boards.pictures import SPLIT
from edgeyolo.boards.wheels import BoardPython, collect_wheels
from edgeyolo.boards.wire import Wire
from edgeyolo.bundle import read_manifest
from edgeyolo.spec.errors import BoardError, OutputError
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of

_INSTALLED = "edgeyolo-bundles"  # in the home of the board's user
_VERSIONS = ".versions"
_GATE = 4  # the exit code of a gate that was not met, with figures all the same
_MIB = 1 << 20
_NOT_ON_BOARDS = ("", "train")  # extras of engines' packages that are of no use there


class Workplace:
    """A board on which bundles of one kind can run: edgeyolo and the engine are there, unpacked once and kept.

    Args:
        wire: a connection to it.
        bundle: which engine it must have.
        extras: of edgeyolo, beside the engine's.
        wheelhouse: see `collect_wheels`.

    Raises:
        BoardError: the bundle is for another architecture, or there is no wheel. OutputError: the disk is full.
        AwayError: the connection ended.
    """

    def __init__(
        self,
        wire: Wire,
        bundle: Path,
        *,
        extras: Sequence[str] = (),
        wheelhouse: Path | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self._wire, self._host = wire, wire.address.host
        manifest = read_manifest(bundle)
        python = BoardPython(wire.facts, where=self._host)
        _check_machine(manifest, python, bundle, self._host)
        packages = load_engine(manifest.artefact.engine).packages
        wanted = sorted({package.extra for package in packages}.difference(_NOT_ON_BOARDS).union(extras))
        wheels = {
            sha256_of(path): path for path in collect_wheels(wanted, python, wheelhouse=wheelhouse, progress=progress)
        }
        folders = self._unpack(wheels, progress)
        self._environment = {
            "PYTHONPATH": ":".join(folders),
            "PYTHONNOUSERSITE": "1",
            "EDGEYOLO_CACHE": posixpath.join(wire.facts["place"], "cache"),
        }

    def bench(self, bundle: Path, options: Sequence[str], *, files: Mapping[str, Path] | None = None) -> dict[str, Any]:
        """Time a bundle there, and give what its `bench --json` says.

        Args:
            options: of `edgeyolo bench`, as written on a command line.
            files: options whose values are files, such as {"--image": ...}; they are carried over.

        Raises:
            BoardError: as the board's `edgeyolo` says; OutputError, AwayError.
        """
        carried = [word for option, path in (files or {}).items() for word in (option, self._carry(path))]
        return self._edgeyolo("bench", self._carry(bundle), *options, *carried)

    def evaluate(self, bundle: Path, pictures: Path, options: Sequence[str]) -> dict[str, Any]:
        """Measure a bundle's accuracy there, and give what its `evaluate --json` says; errors as `bench`.

        Args:
            pictures: that `pack_split` wrote.
        """
        (folder,) = self._unpack({sha256_of(pictures): pictures}, SILENT)
        return self._edgeyolo("evaluate", self._carry(bundle), "--data", folder, "--split", SPLIT, *options)

    def _unpack(self, archives: Mapping[str, Path], progress: Progress) -> list[str]:
        """Carry archives, by their digests, and unpack each, unless it is there; the folders on the board."""
        lacking = self._wire.ask("lacking", archives=list(archives))["lacking"]
        _check_room([archives[sha256] for sha256 in lacking], self._wire)
        for done, sha256 in enumerate(lacking):
            progress.step(f"{self._host}: environment", done, len(lacking), archives[sha256].name)
            self._wire.ask("unpack", path=self._carry(archives[sha256]), sha256=sha256)
        if lacking:
            progress.step(f"{self._host}: environment", len(lacking), len(lacking))
        return [posixpath.join(self._wire.facts["place"], "unpacked", sha256) for sha256 in archives]

    def _edgeyolo(self, *words: str) -> dict[str, Any]:
        command = [self._wire.address.python, "-m", "edgeyolo", *words, "--json"]
        answer = self._wire.ask("run", words=command, environment=self._environment)
        try:
            value: dict[str, Any] = json.loads(answer["out"])
        except ValueError:
            raise BoardError(f"edgeyolo {words[0]} ended with {answer['code']} there", where=self._host) from None
        if "error" in value:
            error = value["error"]
            where = f"{self._host}: {error['where']}" if error["where"] else self._host
            raise BoardError(error["what"], where=where, hint=error["hint"])
        if answer["code"] not in (0, _GATE):
            raise BoardError(f"edgeyolo {words[0]} ended with {answer['code']} there", where=self._host)
        return value

    def _carry(self, path: Path) -> str:
        """Copy a file to the board, unless it is there."""
        place = posixpath.join(self._wire.facts["place"], "files", sha256_of(path), path.name)
        self._wire.send(path, place)
        return place

    def install(self, bundle: Path) -> dict[str, Any]:
        """Put a bundle in its place on the board, once it has run there; a single rename switches to it.

        Returns:
            `path` on the board, the same for every version; `changed`; `previous`, the version it led to before.

        Raises:
            BoardError: it does not run there. OutputError, AwayError. Whatever is in the place stays there.
        """
        place = send_version(self._wire, bundle)
        self._edgeyolo("bench", place, "--runs", "1", "--warmup", "0")
        return switch_to(self._wire, place)


def send_version(wire: Wire, bundle: Path) -> str:
    """Put a bundle beside what is in its place on the board, and say where; errors as `Workplace.install`."""
    folder = posixpath.join(wire.facts["home"], _INSTALLED, _VERSIONS, bundle.name, sha256_of(bundle)[:16])
    place = posixpath.join(folder, bundle.name)
    wire.send(bundle, place)
    return place


def switch_to(wire: Wire, place: str) -> dict[str, Any]:
    """Make the place of a bundle lead to a version that was sent; gives what `Workplace.install` does."""
    name = posixpath.basename(place)
    link = posixpath.join(wire.facts["home"], _INSTALLED, name)
    version = posixpath.basename(posixpath.dirname(place))
    return {"path": link, "version": version, **wire.ask("switch", link=link, path=place)}


def roll_back(wire: Wire, name: str) -> dict[str, Any]:
    """Lead back to the version before; errors as `Workplace.install`."""
    link = posixpath.join(wire.facts["home"], _INSTALLED, name)
    return {"path": link, **wire.ask("back", link=link)}


def _check_machine(manifest: Manifest, python: BoardPython, bundle: Path, host: str) -> None:
    if manifest.machine and manifest.machine != python.machine:
        raise BoardError(
            f"is for {manifest.target} ({manifest.machine}), and {host} is {python.machine}",
            where=bundle,
            hint="Deploy for that board: edgeyolo targets lists them",
        )


def _check_room(archives: Sequence[Path], wire: Wire) -> None:
    """Raise OutputError where archives, unpacked, do not fit on the board's disk."""
    needed = 0
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            needed += sum(entry.file_size for entry in archive.infolist())
    needed += max((path.stat().st_size for path in archives), default=0)
    if needed > wire.facts["free_bytes"]:
        raise OutputError(
            f"the board's disk has no room: {needed // _MIB} MiB are needed, and "
            f"{wire.facts['free_bytes'] // _MIB} MiB are free",
            where=wire.address.host,
            hint="Make room on the board",
        )
