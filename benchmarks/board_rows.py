"""Rows of benchmarks/boards: what users measured on their boards with `edgeyolo bench --json`.

    python benchmarks/board_rows.py add times.json --board "Raspberry Pi 5, 8 GB" [--conditions "active cooler"]
    python benchmarks/board_rows.py check [ROW.json ...]
    python benchmarks/board_rows.py schema

`add` takes what `bench --json` gave, or `bench --host --json`, leaves out paths and names of hosts, checks it and
writes a row. `check` reads rows, all of them if none is named; a test does the same. `schema` writes schema.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
from record import ROOT

from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.benchmark import BenchRecord
from edgeyolo.spec.errors import EdgeYoloError, FormatError
from edgeyolo.spec.strict import encode_json, load_json
from edgeyolo.spec.target import list_targets

BOARDS = ROOT / "benchmarks" / "boards"
SCHEMA = BOARDS / "schema.json"
LEAST_RUNS = 30
_PERCENTILES = 101


class BoardRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One bundle on one board.

    Attributes:
        board: what it is, as its maker calls it, with its memory.
        conditions: that matter and that a computer does not tell: cooling, supply, power mode, other clocks than stock.
        record: of `bench --json`, without paths.
    """

    format_version: int = 1
    board: str
    conditions: str = ""
    record: BenchRecord


def main() -> None:
    """Add, check, or write the schema."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    adding = verbs.add_parser("add")
    adding.add_argument("told", type=Path)
    adding.add_argument("--board", required=True)
    adding.add_argument("--conditions", default="")
    checking = verbs.add_parser("check")
    checking.add_argument("rows", type=Path, nargs="*")
    verbs.add_parser("schema")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "add":
            for path in add_rows(arguments.told, arguments.board, arguments.conditions):
                sys.stdout.write(f"wrote {path}; send it in a pull request\n")
        elif arguments.verb == "check":
            rows = arguments.rows or list_rows()
            for path in rows:
                load_row(path)
            sys.stdout.write(f"{len(rows)} rows are as they should be\n")
        else:
            write_file(SCHEMA, schema())
    except EdgeYoloError as error:
        sys.exit(str(error))


def list_rows() -> list[Path]:
    """Files of all rows."""
    return sorted(path for path in BOARDS.glob("*.json") if path != SCHEMA)


def load_row(path: Path) -> BoardRow:
    """Read a row and check it.

    Raises:
        FormatError: it is none, or it could not have been measured so.
    """
    row = load_json(path, BoardRow)
    check_row(row, path)
    return row


def add_rows(told: Path, board: str, conditions: str = "", *, folder: Path = BOARDS) -> list[Path]:
    """Write a row for each record of a file, and say where.

    Raises:
        FormatError: no output of `bench --json`, or it cannot be a row.
    """
    try:
        found = json.loads(told.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot be read ({error})", where=told) from None
    written = []
    for one in found.get("boards", [found]):
        row = _row_of(one, board, conditions, told)
        model = f"{row.record.model}-{row.record.image_hw[0]}x{row.record.image_hw[1]}"
        engine = row.record.engine.split(" ")[0]
        name = "-".join([board, model, row.record.precision, engine, row.record.bundle_sha256[:8]])
        path = folder / f"{re.sub(r'[^a-z0-9.]+', '-', name.lower()).strip('-')}.json"
        check_row(row, path)
        write_file(path, encode_json(row))
        written.append(path)
    return written


def _row_of(told: dict[str, Any], board: str, conditions: str, where: Path) -> BoardRow:
    """A row without what says where a user keeps files, and how hosts are called."""
    kept = {name: value for name, value in told.items() if name != "host"}
    try:
        record = msgspec.convert(kept, BenchRecord)
    except msgspec.ValidationError as error:
        raise FormatError(f"is no output of `edgeyolo bench --json` ({error})", where=where) from None
    comparison = record.comparison
    if comparison is not None:
        comparison = msgspec.structs.replace(comparison, other=_name(comparison.other))
    record = msgspec.structs.replace(record, bundle=_name(record.bundle), comparison=comparison)
    return BoardRow(board=board, conditions=conditions, record=record)


def _name(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def check_row(row: BoardRow, where: Path) -> None:
    """Raise FormatError for a row that says too little, tells of its user's files, or contradicts itself."""
    record = row.record
    total, network = record.spread["total"], record.spread["network"]
    other = record.comparison.other if record.comparison else ""
    problems = {
        "`board` is empty": not row.board.strip(),
        f"it has fewer than {LEAST_RUNS} runs": record.runs < LEAST_RUNS,
        "a path is in it: use `board_rows.py add`": "/" in record.bundle + other,
        f"there is no target '{record.target}'": record.target not in list_targets(),
        "it does not say which bundle: bench a .eyb": not re.fullmatch(r"[0-9a-f]{64}", record.bundle_sha256),
        "it does not say which model: bench with this version": not record.model or min(record.image_hw) < 1,
        "the median is not in its interval": not _holds(record.interval_ms.get("total"), total.median_ms),
        "the network takes longer than the whole call": network.median_ms > total.median_ms,
        "percentiles do not rise": not all(map(_rises, record.percentiles_ms.values())) or not record.percentiles_ms,
        "the calls of the slices are not those of the runs": sum(part.calls for part in record.slices) != record.runs,
    }
    found = [problem for problem, is_so in problems.items() if is_so]
    if found:
        raise FormatError("; ".join(found), where=where, hint="See benchmarks/boards/README.md")


def _holds(interval: tuple[float, float] | None, value: float) -> bool:
    return interval is not None and interval[0] <= value <= interval[1]


def _rises(values: tuple[float, ...]) -> bool:
    return len(values) == _PERCENTILES and list(values) == sorted(values) and values[0] > 0


def schema() -> bytes:
    """JSON schema of a row."""
    made = msgspec.json.schema(BoardRow, schema_hook=lambda _: {"description": "of `machine`: any"})
    titled = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "a row of benchmarks/boards", **made}
    return (json.dumps(titled, indent=1) + "\n").encode()


if __name__ == "__main__":
    main()
