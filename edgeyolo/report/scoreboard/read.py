"""What `report` is given -> rows of the scoreboard: bundles, folders, and the JSON of other verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeyolo.boards.fleet import FleetTable
from edgeyolo.report.quantization import FORMAT_VERSION as REPORT_VERSION
from edgeyolo.report.quantization import QuantizationReport
from edgeyolo.spec.benchmark import BenchRecord
from edgeyolo.spec.errors import FormatError, UsageError
from edgeyolo.spec.figure import (
    SIMULATED_MARK,
    Figure,
    ScoreboardRow,
    device_text,
    model_columns,
    scoreboard_rows,
    time_figures,
    with_score,
)
from edgeyolo.spec.latency import Estimate
from edgeyolo.spec.model import ModelRecord, Score
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.scoreboard import FORMAT_VERSION, Scoreboard, TimedRun
from edgeyolo.spec.strict import decode_json, load_json

S = TypeVar("S")

_READS = (
    "It reads bundles, folders of `train` and `quantize`, and JSON: report.json, what `bench`, `estimate`, `inspect` "
    "and `report` say with --json, a fleet's table, a list of rows (docs/scoreboard.md)"
)


@dataclass(frozen=True)
class Found:
    """What one source says.

    Attributes:
        rows: of artefacts.
        runs: of `bench`; their artefacts are not among the rows.
        estimates: rows without accuracy, and what was estimated, as it was called.
    """

    rows: tuple[ScoreboardRow, ...] = ()
    runs: tuple[TimedRun, ...] = ()
    estimates: tuple[tuple[str, ScoreboardRow], ...] = ()


def read_source(path: Path) -> Found:
    """Whatever `path` is.

    Raises:
        UsageError: nothing is there, or nothing that is known. FormatError, BundleError, CheckpointError: it is
            broken, or of a newer version.
    """
    if path.suffix == ".eyb" or (path / "manifest.json").is_file():
        found = _read_bundle(path)
    elif path.is_dir():
        found = _read_folder(path)
    elif path.suffix == ".safetensors":
        found = _read_checkpoint(path)
    elif path.is_file():
        found = _read_json(path)
    else:
        raise UsageError("does not exist", where=path, hint=_READS)
    rows = (msgspec.structs.replace(row, read_from=row.read_from or (path.name,)) for row in found.rows)
    return Found(tuple(rows), found.runs, found.estimates)


def published_by_others(rows: Iterable[ScoreboardRow]) -> list[ScoreboardRow]:
    """What is known to be published of the same models, on whatever board and at whatever size."""
    from edgeyolo.latency import list_boards, load_board

    wanted = {row.model for row in rows}
    boards = [load_board(name) for name in list_boards()]
    return [
        ScoreboardRow(
            model=point.model,
            target=board.target,
            engine=board.engine,
            precision=point.precision,
            image_hw=(point.image_size, point.image_size),
            costs=(Figure(value=point.ms, unit="network ms", kind="published", source=board.title),),
            read_from=(point.source,),
        )
        for board in boards
        for point in board.points
        if point.model in wanted
    ]


def _read_bundle(path: Path) -> Found:
    from edgeyolo.bundle import read_manifest

    manifest = read_manifest(path)
    if path.is_dir():
        size = sum((path / name).stat().st_size for name in manifest.sha256 if (path / name).is_file())
        return Found(tuple(scoreboard_rows(manifest, size)))
    digest = sha256_of(path)
    rows = scoreboard_rows(manifest, path.stat().st_size)
    return Found(tuple(msgspec.structs.replace(row, sha256=digest) for row in rows))


def _read_folder(folder: Path) -> Found:
    """Of `quantize`, with its report or without, or of `train`."""
    if (folder / "report.json").is_file() and (folder / "model.json").is_file():
        return _read_json(folder / "report.json")
    if (folder / "model.json").is_file():
        return _read_model(load_json(folder / "model.json", ModelRecord))
    if any(folder.glob("*.safetensors")):
        return _read_checkpoint(folder)
    raise UsageError("is a folder that no verb has written", where=folder, hint=_READS)


def _read_model(record: ModelRecord) -> Found:
    row = ScoreboardRow(
        **model_columns(record.model),
        sha256=record.onnx_sha256,
        checkpoint=record.checkpoint_sha256,
        version=record.tools.get("edgeyolo", ""),
    )
    return Found(tuple(_of_score(row, score, record.scores) for score in record.scores) or (row,))


def _read_checkpoint(path: Path) -> Found:
    from edgeyolo.training.checkpoint import checkpoint_path, read_record

    file = checkpoint_path(path)
    record, digest = read_record(file), sha256_of(file)
    row = ScoreboardRow(
        **model_columns(record.model),
        engine="torch",
        precision="float",
        data=record.data,
        size=Figure(value=file.stat().st_size, unit="bytes", kind="measured"),
        sha256=digest,
        checkpoint=digest,
        version=record.tools.get("edgeyolo", ""),
    )
    return Found((row if record.score is None else with_score(row, record.score, [record.score]),))


def _of_score(row: ScoreboardRow, score: Score, scores: Iterable[Score]) -> ScoreboardRow:
    """The row of the artefact that a score is of, such as "ncnn int8"."""
    engine, _, precision = score.artefact.removesuffix(SIMULATED_MARK).rpartition(" ")
    if precision == "torch":
        engine, precision = precision, engine
    return with_score(msgspec.structs.replace(row, engine=engine, precision=precision), score, scores)


def _read_json(path: Path) -> Found:
    """Told apart by a key that only one kind has."""
    raw = path.read_bytes()
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"is no JSON ({error})", where=path, hint=_READS) from None
    if isinstance(value, list):
        return Found(tuple(decode_json(raw, list[ScoreboardRow], where=path)))
    if isinstance(value, dict):
        for key, read in _KINDS.items():
            if key in value:
                return read(value, path)
    raise FormatError("is no record that `report` knows", where=path, hint=_READS)


def _read_scoreboard(value: dict[str, Any], path: Path) -> Found:
    board = _convert(value, Scoreboard, path, newest=FORMAT_VERSION)
    return Found(board.rows, board.runs)


def _read_rows(value: dict[str, Any], path: Path) -> Found:
    """A fleet's table, or what `bench --fleet` says of it; or rows of the scoreboard."""
    rows = value["rows"]
    if not (isinstance(rows, list) and any(isinstance(row, dict) and "record" in row for row in rows)):
        return Found(tuple(_convert(rows, list[ScoreboardRow], path)))
    told = {key: value[key] for key in ("format_version", "rows") if key in value}
    table = _convert(told, FleetTable, path, newest=1)
    return Found(runs=tuple(_timed(row.record, path, board=row.board) for row in table.rows))


def _read_report(value: dict[str, Any], path: Path) -> Found:
    report = _convert(value, QuantizationReport, path, newest=REPORT_VERSION)
    base = ScoreboardRow(
        **model_columns(report.model),
        layers=report.layers,
        version=report.provenance.tools.get("edgeyolo", ""),
        date=report.provenance.created,
        sha256=report.provenance.onnx_sha256,
        checkpoint=report.provenance.checkpoint_sha256,
    )
    scores = [row.score for row in report.rows]
    rows = []
    for row in report.rows:
        size = None if row.size_bytes is None else Figure(value=row.size_bytes, unit="bytes", kind="measured")
        costs = () if row.latency is None else time_figures(row.latency)
        layers = report.layers if row.score.artefact.removesuffix(SIMULATED_MARK).endswith("int8") else {}
        measured = msgspec.structs.replace(base, size=size, costs=costs, layers=layers)
        rows.append(_of_score(measured, row.score, scores))
    return Found(tuple(rows) or (base,))


def _read_inspected(value: dict[str, Any], path: Path) -> Found:
    return Found(tuple(_convert(value["scoreboard"], list[ScoreboardRow], path)))


def _read_bench(value: dict[str, Any], path: Path) -> Found:
    host = value.pop("host", "")
    return Found(runs=(_timed(_convert(value, BenchRecord, path), path, board=host),))


def _read_board_row(value: dict[str, Any], path: Path) -> Found:
    """A record that a user sent, with the name of the board; see benchmarks/boards."""
    record = _convert(value["record"], BenchRecord, path)
    return Found(runs=(_timed(record, path, board=str(value.get("board", ""))),))


def _read_boards(value: dict[str, Any], path: Path) -> Found:
    """What `bench --host` says: boards that failed have no figures."""
    boards = _convert(value["boards"], list[dict[str, Any]], path)
    timed = [_read_bench(board, path).runs for board in boards if "error" not in board]
    return Found(runs=tuple(run for runs in timed for run in runs))


def _read_estimates(value: dict[str, Any], path: Path) -> Found:
    from edgeyolo.latency import load_board

    told = _convert(value, _Estimates, path)
    rows = []
    for one in told.estimates:
        figure = Figure(
            value=one.middle_ms,
            low=one.low_ms,
            high=one.high_ms,
            unit="network ms",
            kind="estimated",
            source=device_text(one.title, one.threads),
        )
        target = load_board(one.board).target
        row = ScoreboardRow(
            model=told.model, target=target, engine=one.engine, precision=one.precision, costs=(figure,)
        )
        rows.append((told.source, msgspec.structs.replace(row, read_from=(path.name, *one.sources))))
    return Found(estimates=tuple(rows))


class _Estimates(msgspec.Struct):
    """What `estimate --json` says that is used here."""

    source: str
    model: str
    estimates: tuple[Estimate, ...]


def _timed(record: BenchRecord, path: Path, *, board: str) -> TimedRun:
    if not {"total", "network"} <= record.spread.keys() or record.batch < 1:
        raise FormatError("has no times of a whole call and of the network", where=path, hint=_READS)
    device = device_text(record.device, record.threads)
    return TimedRun(device=f"{board}: {device}" if board else device, record=record)


def _convert(value: Any, kind: type[S], path: Path, *, newest: int = 0) -> S:
    """Plain JSON values as `kind`.

    Args:
        newest: version of the format that is known, 0 where it has none.

    Raises:
        FormatError: it is newer, or something else.
    """
    version = value.get("format_version", 1) if newest else 0
    if not isinstance(version, int) or version > newest:
        what = f"is of format {version}, and this edgeyolo reads up to {newest}"
        raise FormatError(what, where=path, hint="Update edgeyolo")
    return decode_json(msgspec.json.encode(value), kind, where=path)


_KINDS: dict[str, Callable[[dict[str, Any], Path], Found]] = {
    "spread": _read_bench,
    "boards": _read_boards,
    "record": _read_board_row,
    "estimates": _read_estimates,
    "provenance": _read_report,
    "scoreboard": _read_inspected,
    "runs": _read_scoreboard,
    "rows": _read_rows,
}
