"""The scoreboard as one page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeyolo.report.page import embed, fill_template, read_part
from edgeyolo.report.scoreboard.chart import DIRECT_FIRST, draw_charts
from edgeyolo.report.scoreboard.pictures import SideBySide
from edgeyolo.report.scoreboard.runs import CONDITIONS, STAGES, describe_runs
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.figure import OWN_WEIGHTS, Figure, Kind, ScoreboardRow
from edgeyolo.spec.scoreboard import Scoreboard
from edgeyolo.spec.target import needs_scales

KINDS: dict[Kind, str] = {
    "measured": "on the thing itself",
    "simulated": "in the vendor's simulator",
    "counted": "instructions, in an emulator",
    "estimated": "from other numbers, as a range",
    "published": "by others, on their own",
}
_DIGEST = 12  # digits of a digest that are shown


@dataclass(frozen=True)
class Line:
    """A line of the table: a row on one device.

    Attributes:
        number: of the row.
        device: "" where it was not timed.
        drop: AP of the float model minus this one's.
        layers: of how many layers how many are int8, in words.
    """

    number: int
    row: ScoreboardRow
    device: str
    ms: Figure | None
    network_ms: Figure | None
    instructions: Figure | None
    drop: Figure | None
    layers: str

    @property
    def giga_instructions(self) -> Figure | None:
        """Thousands of millions of them."""
        return _scaled(self.instructions, 1e9)

    @property
    def mebibytes(self) -> Figure | None:
        """Size of the files that ship."""
        return _scaled(self.row.size, 2**20)

    @property
    def kinds(self) -> list[Kind]:
        """Of its accuracy and costs; of its size where there are neither."""
        figures = [self.row.ap, self.ms, self.network_ms, self.instructions]
        found = [figure.kind for figure in figures if figure] or [f.kind for f in (self.row.size,) if f]
        return sorted(set(found), key=DIRECT_FIRST.index)


def write_page(path: Path, board: Scoreboard, pictures: Sequence[SideBySide] = ()) -> None:
    """Write the page.

    Raises:
        OutputError: it cannot be written. MissingPackageError: jinja2 is not installed.
    """
    lines = [line for number, row in enumerate(board.rows) for line in _lines_of(number, row)]
    choices = _choices(lines)
    runs, script = describe_runs(board.runs), read_part("scoreboard.js")
    page = fill_template(
        "scoreboard.html.j2",
        needed_for=path.name,
        board=board,
        kinds=KINDS,
        counts=Counter(figure.kind for row in board.rows for figure in _figures_of(row)),
        lead=_lead(board, lines),
        highlights=_highlights(lines),
        lines=lines,
        made=_group(board.rows),
        choices=choices,
        has={name: any(getattr(line, name) for line in lines) for name in ("instructions", "layers", "drop")}
        | {"splits": len(choices["data"]) > 1},
        charts=draw_charts(board.rows),
        runs=runs,
        stages=STAGES,
        conditions=[name for name in CONDITIONS if any(name in run.conditions for run in runs)],
        engine_of=engine_of,
        pictures=[(one, embed(one.jpeg)) for one in pictures],
        licences={OWN_WEIGHTS: "own weights", "": "not said"},
        digits=_DIGEST,
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_file(path, page.encode())


@dataclass(frozen=True)
class Made:
    """An artefact, whatever it was scored on.

    Attributes:
        numbers: of its rows.
        rows: of the artefact, one for each split.
    """

    numbers: list[int]
    rows: list[ScoreboardRow]

    @property
    def scored(self) -> list[str]:
        """Data, split and number of pictures of each accuracy."""
        texts = [f"{_data_text(row)}{f': {row.pictures} pictures' if row.pictures else ''}" for row in self.rows]
        return list(dict.fromkeys(filter(None, texts)))

    @property
    def read_from(self) -> list[str]:
        """Files and publications."""
        return list(dict.fromkeys(name for row in self.rows for name in row.read_from))


def _group(rows: Sequence[ScoreboardRow]) -> list[Made]:
    """Rows of one artefact together."""
    found: dict[tuple[object, ...], Made] = {}
    for number, row in enumerate(rows):
        whole = (row.model, row.target, row.engine, row.precision, row.image_hw, row.licence, row.read_from)
        key = (row.model, row.engine, row.precision, row.sha256) if row.sha256 else whole
        made = found.setdefault(key, Made([], []))
        made.numbers.append(number)
        made.rows.append(row)
    return list(found.values())


def engine_of(row: ScoreboardRow) -> str:
    """Without its version."""
    return row.engine.partition(" ")[0]


def _lines_of(number: int, row: ScoreboardRow) -> list[Line]:
    """One for each device that there are costs of, or one."""
    devices = list(dict.fromkeys(cost.source for cost in row.costs)) or [""]
    return [
        Line(
            number=number,
            row=row,
            device=device,
            drop=_drop(row),
            layers=_layers_text(row),
            **{name: _cost(row, device, unit) for name, unit in _UNITS.items()},
        )
        for device in devices
    ]


_UNITS = {"ms": "ms", "network_ms": "network ms", "instructions": "instructions"}


def _cost(row: ScoreboardRow, device: str, unit: str) -> Figure | None:
    found = [cost for cost in row.costs if (cost.source, cost.unit) == (device, unit)]
    return min(found, key=lambda cost: DIRECT_FIRST.index(cost.kind), default=None)


def _scaled(figure: Figure | None, unit: float) -> Figure | None:
    return figure and msgspec.structs.replace(figure, value=figure.value / unit)


def _drop(row: ScoreboardRow) -> Figure | None:
    if row.ap is None or row.ap_float is None or row.precision in ("float", "fp32"):
        return None
    kind = max(row.ap.kind, row.ap_float.kind, key=DIRECT_FIRST.index)
    return Figure(value=row.ap_float.value - row.ap.value, unit="AP", kind=kind)


def _layers_text(row: ScoreboardRow) -> str:
    return f"{row.layers.get('int8', 0)} / {sum(row.layers.values())}" if row.layers else ""


def _figures_of(row: ScoreboardRow) -> Iterable[Figure]:
    return (figure for figure in (row.ap, *row.costs) if figure is not None)


def _choices(lines: Iterable[Line]) -> dict[str, list[str]]:
    """What can be filtered by, and the values that there are."""
    lines = list(lines)
    values = {
        "data": [_data_text(line.row) for line in lines],
        "model": [line.row.model for line in lines],
        "precision": [line.row.precision for line in lines],
        "device": [line.device for line in lines],
    }
    return {name: sorted({value for value in found if value}) for name, found in values.items()}


def _data_text(row: ScoreboardRow) -> str:
    return f"{row.data}, {row.split}" if row.split else row.data


def _lead(board: Scoreboard, lines: Sequence[Line]) -> str:
    """How much there is on the page."""
    models, devices = {row.model for row in board.rows}, {line.device for line in lines if line.device}
    on = f", on {_count(devices, 'device')}" if devices else ""
    return f"{_count(_group(board.rows), 'artefact')} of {_count(models, 'model')}{on}."


def _count(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _highlights(lines: Sequence[Line]) -> list[tuple[str, Figure, str]]:
    """What a reader in a hurry wants to know: heading, number, and of what it is."""
    splits = Counter(_data_text(line.row) for line in lines if line.row.ap)
    main = max(splits, key=splits.__getitem__, default="")
    scored = [(line.row.ap, line) for line in lines if line.row.ap and _data_text(line.row) == main]
    dropped = [(line.drop, line) for _, line in scored if line.drop and needs_scales(line.row.precision)]
    timed = [(line.ms, line) for line in lines if line.ms and line.ms.kind == "measured"]
    asked = (
        (f"Most accurate on {main}", scored, max),
        ("Most that quantization costs there", dropped, max),
        ("Fastest call that was measured", timed, min),
    )
    chosen = [(heading, *choose(pairs, key=_value)) for heading, pairs, choose in asked if pairs]
    return [(heading, figure, _name(line)) for heading, figure, line in chosen]


def _value(pair: tuple[Figure, Line]) -> float:
    return pair[0].value


def _name(line: Line) -> str:
    row = line.row
    named = f"{row.model} {row.precision}".strip()
    return ", ".join(filter(None, (named, engine_of(row), line.device)))
