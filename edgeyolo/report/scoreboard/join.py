"""What several sources say -> one scoreboard: times go to the artefact that was timed, and nothing is there twice."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from edgeyolo.report.scoreboard.read import Found, published_by_others
from edgeyolo.spec.errors import FormatError
from edgeyolo.spec.figure import SIMULATED_MARK, Figure, ScoreboardRow, Unit, with_score
from edgeyolo.spec.scoreboard import Scoreboard, TimedRun

_TIMES: tuple[tuple[str, Unit], ...] = (("total", "ms"), ("network", "network ms"))


def join(found: Sequence[tuple[Path, Found]], *, title: str, published: bool = False) -> Scoreboard:
    """One scoreboard of all that was read.

    Args:
        found: sources, and what they say.
        published: add what others published of the same models.

    Raises:
        FormatError: two rows of one artefact that disagree.
    """
    rows = _without_copies([row for _, one in found for row in one.rows])
    runs = _in_time([run for _, one in found for run in one.runs])
    for run in runs:
        rows = _with_run(rows, run)
    for source, row in (estimate for _, one in found for estimate in one.estimates):
        given = [other for path, one in found if path.resolve() == Path(source).resolve() for other in one.rows]
        rows = _with_estimate(rows, row, [other for other in rows if _artefacts([other]) & _artefacts(given)])
    rows = [_beside_float(row, rows) for row in rows]
    if published:
        rows += [row for row in published_by_others(rows) if row not in rows]
    return Scoreboard(
        title=title,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        rows=tuple(rows),
        runs=tuple(runs),
        notes=tuple(_notes(rows, runs)),
    )


def _key(row: ScoreboardRow) -> tuple[object, ...]:
    """What tells an artefact on a split from all others."""
    return (row.model, row.target, row.engine, row.precision, row.image_hw, row.sha256, row.data, row.split)


def _artefacts(rows: Iterable[ScoreboardRow]) -> set[tuple[object, ...]]:
    """What the rows are of, whatever the split."""
    return {_key(row)[:-2] for row in rows}


def _without_copies(rows: Iterable[ScoreboardRow]) -> list[ScoreboardRow]:
    """One row for each key, with the costs of all that have it."""
    kept: dict[tuple[object, ...], ScoreboardRow] = {}
    for row in rows:
        before = kept.setdefault(_key(row), row)
        kept[_key(row)] = _merge(before, row)
    return list(kept.values())


def _merge(row: ScoreboardRow, other: ScoreboardRow) -> ScoreboardRow:
    """Both as one.

    Raises:
        FormatError: they give different numbers for the same thing.
    """
    costs = {(cost.source, cost.unit, cost.kind): cost for cost in (*other.costs, *row.costs)}
    pairs = [(getattr(row, name), getattr(other, name)) for name in ("ap", "ap_float", "size")]
    pairs += [(costs[cost.source, cost.unit, cost.kind], cost) for cost in other.costs]
    clash = next(((a, b) for a, b in pairs if a is not None and b is not None and a.value != b.value), None)
    if clash is not None:
        named = " ".join(filter(None, (row.model, row.engine, row.precision, row.target, row.data, row.split)))
        what = f"two rows of {named} disagree: {clash[0].value:g} and {clash[1].value:g} {clash[0].unit}"
        where = " and ".join(dict.fromkeys((*row.read_from, *other.read_from)))
        raise FormatError(what, where=where, hint="Leave one out, or give both the sha256 of what they are of")
    empty = {name: getattr(other, name) for name in row.__struct_fields__ if not getattr(row, name)}
    read_from = tuple(dict.fromkeys((*row.read_from, *other.read_from)))
    return msgspec.structs.replace(row, **{**empty, "costs": tuple(costs.values()), "read_from": read_from})


def _in_time(runs: Iterable[TimedRun]) -> list[TimedRun]:
    """Each run once, the oldest first, so that the newest of a bundle on a device has the last word."""
    ordered = sorted(runs, key=lambda run: run.record.date)
    return [run for place, run in enumerate(ordered) if run not in ordered[:place]]


def _with_run(rows: list[ScoreboardRow], run: TimedRun) -> list[ScoreboardRow]:
    """The rows of the artefact that was timed, with its times; new rows where it is not among them."""
    record = run.record
    costs = tuple(
        Figure(value=record.spread[part].median_ms / record.batch, unit=unit, kind="measured", source=run.device)
        for part, unit in _TIMES
    )
    timed = [row for row in rows if row.sha256 and row.sha256 == record.bundle_sha256]
    if not timed:
        return [*rows, *_rows_of(run, costs)]

    def timed_anew(row: ScoreboardRow) -> ScoreboardRow:
        others = (cost for cost in row.costs if (cost.kind, cost.source) != ("measured", run.device))
        return msgspec.structs.replace(row, costs=(*others, *costs))

    return [timed_anew(row) if row in timed else row for row in rows]


def _rows_of(run: TimedRun, costs: tuple[Figure, ...]) -> list[ScoreboardRow]:
    """What the record itself says of the artefact."""
    record = run.record
    row = ScoreboardRow(
        model=record.model or record.bundle.replace("\\", "/").rpartition("/")[2].removesuffix(".eyb"),
        target=record.target,
        engine=record.engine,
        precision=record.precision,
        costs=costs,
        image_hw=record.image_hw if any(record.image_hw) else None,
        licence=record.licence,
        version=str(record.machine.get("edgeyolo", "")),
        date=record.date,
        sha256=record.bundle_sha256,
        read_from=("bench",),
    )
    name = f"{record.engine.partition(' ')[0]} {record.precision}"
    own = [score for score in record.scores if score.artefact.removesuffix(SIMULATED_MARK) == name]
    return [with_score(row, score, record.scores) for score in own] or [row]


def _with_estimate(
    rows: list[ScoreboardRow], estimate: ScoreboardRow, given: list[ScoreboardRow]
) -> list[ScoreboardRow]:
    """The estimate as costs of the artefact for that board, or as rows with the accuracy of the same engine elsewhere.

    Args:
        given: rows of what was estimated.
    """
    same = [row for row in given if _runs_like(row, estimate)]
    here = [row for row in same if row.target == estimate.target]
    if here:
        return [
            msgspec.structs.replace(row, costs=(*row.costs, *estimate.costs)) if row in here else row for row in rows
        ]
    added = [
        msgspec.structs.replace(
            row,
            target=estimate.target,
            costs=estimate.costs,
            ap=None
            if row.ap is None
            else msgspec.structs.replace(row.ap, source=f"as on {row.target or 'this computer'}"),
            read_from=(*row.read_from, *estimate.read_from),
        )
        for row in same
    ]
    return [*rows, *(row for row in added or [estimate] if row not in rows)]


def _runs_like(row: ScoreboardRow, other: ScoreboardRow) -> bool:
    """Whether both are of one engine, whatever its version, in one precision."""
    mine, its = row.engine.partition(" ")[0], other.engine.partition(" ")[0]
    return (row.model, mine, row.precision) == (other.model, its, other.precision)


def _beside_float(row: ScoreboardRow, rows: Sequence[ScoreboardRow]) -> ScoreboardRow:
    """With the accuracy of the float model that it was made of, where another row has it: in torch, or an engine's."""
    if row.ap is None or row.ap_float is not None or not row.checkpoint:
        return row
    key = (row.checkpoint, row.image_hw, row.data, row.split)
    floats = [
        other
        for precision in ("float", "fp32")
        for other in rows
        if other.precision == precision and (other.checkpoint, other.image_hw, other.data, other.split) == key
    ]
    reference = next((other for other in floats if other.ap is not None), None)
    return row if reference is None or reference is row else msgspec.structs.replace(row, ap_float=reference.ap)


def _notes(rows: Sequence[ScoreboardRow], runs: Sequence[TimedRun]) -> list[str]:
    """What a reader should be told of gaps and of what was left aside."""
    notes = []
    if unscored := sum(row.ap is None for row in rows):
        notes.append(f"{unscored} of {len(rows)} rows have no accuracy (edgeyolo evaluate BUNDLE --data DATA --record)")
    if untimed := sum(not row.costs for row in rows):
        notes.append(f"{untimed} of {len(rows)} rows have no latency (edgeyolo bench BUNDLE --json, on the board)")
    often = Counter((run.record.bundle_sha256, run.device) for run in runs if run.record.bundle_sha256)
    for (digest, device), count in often.items():
        if count > 1:
            row = next(row for row in rows if row.sha256 == digest)
            name = f"{row.model} {row.precision}, {row.engine.partition(' ')[0]}"
            notes.append(f"{name} was timed {count} times on {device}: rows have the newest times, stages have all")
    return notes
