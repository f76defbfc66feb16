"""A fleet: every board of a file runs the models that fit it, all at once, into one table that can be gone on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from edgeyolo.boards.wire import Address, Wire, at_board
from edgeyolo.boards.work import Workplace
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.benchmark import BenchRecord
from edgeyolo.spec.boards import FleetBoard
from edgeyolo.spec.errors import EdgeYoloError, UsageError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.strict import decode_toml, encode_json, load_json
from edgeyolo.spec.target import load_target

T = TypeVar("T")


class FleetRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model on one board.

    Attributes:
        board: its section in the fleet's file.
        model: as it was given.
        options: of `bench`, as they were asked for.
        record: what the board gave.
    """

    board: str
    host: str
    target: str
    model: str
    options: tuple[str, ...]
    record: BenchRecord


class FleetTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file: all rows so far."""

    format_version: int = 1
    rows: tuple[FleetRow, ...] = ()


class Table:
    """The rows on disk, which several boards add to; a file that is there is gone on with.

    Args:
        path: of the file.

    Raises:
        FormatError: what is there is no such table.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.rows: tuple[FleetRow, ...] = load_json(path, FleetTable).rows if path.exists() else ()

    def find(self, board: str, sha256: str, options: Sequence[str]) -> FleetRow | None:
        """The row of a bundle that was timed in the same way."""
        wanted = (board, sha256, tuple(options))
        return next((r for r in self.rows if (r.board, r.record.bundle_sha256, r.options) == wanted), None)

    def add(self, row: FleetRow) -> None:
        """Write the table with one more row, in the place of older ones of the same board and model."""
        with self._lock:
            older = (row.board, row.model, row.options)
            self.rows = (*(r for r in self.rows if (r.board, r.model, r.options) != older), row)
            write_file(self._path, encode_json(FleetTable(rows=self.rows)))


def load_fleet(path: Path) -> dict[str, FleetBoard]:
    """Boards by the names of their sections; paths in the file are beside it.

    Raises:
        FormatError: not such a file. UnknownNameError: no such target. UsageError: no board in it.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=path, hint="See docs/boards-over-ssh.md") from None
    boards = decode_toml(raw, dict[str, FleetBoard], where=path)
    if not boards:
        raise UsageError("lists no board", where=path, hint="See docs/boards-over-ssh.md")
    for name, board in boards.items():
        load_target(board.target)
        places = {key: getattr(board, key) for key in ("wheelhouse", "ssh_config")}
        beside = {key: str(path.parent / Path(place).expanduser()) for key, place in places.items() if place}
        boards[name] = msgspec.structs.replace(board, **beside)
    return boards


def at_once(jobs: Mapping[str, Callable[[], T]]) -> dict[str, T | EdgeYoloError]:
    """Do all jobs side by side; what each gave, or the error that ended it."""
    results: dict[str, T | EdgeYoloError] = {}
    bugs: list[BaseException] = []

    def work(name: str, job: Callable[[], T]) -> None:
        try:
            results[name] = job()
        except EdgeYoloError as error:
            results[name] = error
        except BaseException as error:
            bugs.append(error)

    # Daemons: whoever interrupts this is not kept waiting, and every ssh ends with the process.
    threads = [threading.Thread(target=work, args=item, daemon=True) for item in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if bugs:
        raise bugs[0]
    return {name: results[name] for name in jobs}


def bench_fleet(
    boards: Mapping[str, FleetBoard],
    bundles: Mapping[str, Mapping[str, Path]],
    options: Sequence[str],
    table: Table,
    *,
    reconnect_s: float,
    progress: Progress = SILENT,
) -> dict[str, int | EdgeYoloError]:
    """Time on every board what there is for it, and add the rows to the table as they come.

    Args:
        bundles: board -> model -> the bundle that it runs.
        options: of `edgeyolo bench`.

    Returns:
        How many bundles each board timed now, or why it did not.
    """

    def job(name: str) -> Callable[[], int]:
        board = boards[name]
        wanted = [*options, *(("--threads", str(board.threads)) if board.threads else ())]
        timed: set[str] = set()

        def at(wire: Wire) -> int:
            for model, bundle in bundles[name].items():
                if table.find(name, sha256_of(bundle), wanted) is not None:
                    continue
                place = Workplace(wire, bundle, wheelhouse=_path_of(board.wheelhouse), progress=progress)
                record = msgspec.convert(place.bench(bundle, wanted), BenchRecord)
                host, target = board.host, board.target
                table.add(
                    FleetRow(board=name, host=host, target=target, model=model, options=tuple(wanted), record=record)
                )
                timed.add(model)
            return len(timed)

        def run() -> int:
            if all(table.find(name, sha256_of(bundle), wanted) for bundle in bundles[name].values()):
                return 0
            address = Address(board.host, _path_of(board.ssh_config), board.python)
            return at_board(address, at, reconnect_s=reconnect_s, progress=progress)

        return run

    return at_once({name: job(name) for name in boards})


def _path_of(written: str) -> Path | None:
    return Path(written) if written else None
