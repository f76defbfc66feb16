"""Whatever `report` is given: what it becomes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import many_boards
import msgspec
import pytest
from small_report import small_report
from whole_way import WholeWay

from edgeyolo import verbs
from edgeyolo.report.scoreboard import join, published_by_others, read_source
from edgeyolo.spec.errors import BundleError, EdgeYoloError, FormatError, UsageError
from edgeyolo.spec.figure import OWN_WEIGHTS, ScoreboardRow
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.scoreboard import ReportOptions, Scoreboard
from edgeyolo.spec.strict import encode_json

ROW = ScoreboardRow(
    model="yolov7-tiny",
    target="pi",
    engine="ncnn 1",
    precision="int8",
    ap=many_boards.figure(50.0, "AP"),
    costs=(many_boards.figure(20.0, "ms", source="here"),),
)


def read_all(*paths: Path, **options: Any) -> Scoreboard:
    return join([(path, read_source(path)) for path in paths], title="all", **options)


def write(path: Path, value: object) -> Path:
    path.write_bytes(encode_json(value))
    return path


def test_bundles_and_folders(whole_way: WholeWay) -> None:
    """Each says of itself what its own record says."""
    bundle = whole_way.bundles["host-onnx"]
    float_row, *of_folder = read_all(whole_way.run, whole_way.quantized).rows
    assert (float_row.engine, float_row.precision, float_row.split) == ("torch", "float", "val")
    assert (
        float_row.ap is not None
        and float_row.ap.value > 20
        and float_row.sha256 == sha256_of(whole_way.run / "best.safetensors")
    )
    assert [(row.engine, row.precision) for row in of_folder] == [("torch", "float"), ("torch", "fake-quant")]
    assert of_folder[1].ap_float == of_folder[0].ap
    (row,) = read_all(bundle).rows
    assert (row.target, row.precision, row.licence, row.ap) == ("host-onnx", "int8", OWN_WEIGHTS, None)
    assert row.sha256 == sha256_of(bundle) and row.size == many_boards.figure(bundle.stat().st_size, "bytes")
    assert row.read_from == ("host-onnx.eyb",) and sum(row.layers.values()) > 50


def test_a_report_of_quantize(tmp_path: Path) -> None:
    path = write(tmp_path / "report.json", small_report())
    rows = read_all(path).rows
    assert [(row.engine, row.precision, row.split) for row in rows] == [
        ("torch", "float", "val"),
        ("torch", "fake-quant", "val"),
        ("onnxruntime", "int8", "val"),
        ("ncnn", "int8", "val"),
        ("ncnn", "int8", "test"),
    ]
    ncnn = rows[3]
    assert ncnn.ap is not None and (ncnn.ap.value, ncnn.ap_float, ncnn.sha256) == (54.9, rows[0].ap, "cd" * 32)
    assert [(cost.value, cost.unit, cost.source) for cost in ncnn.costs] == [
        (12.34, "ms", "x86, 2 threads"),
        (9.87, "network ms", "x86, 2 threads"),
    ]
    assert rows[0].costs == () and rows[0].layers == {} and ncnn.layers == {"int8": 55, "float": 3}


def test_times_go_to_the_bundle_that_was_timed(tmp_path: Path) -> None:
    """Its newest on a device counts; a record without its bundle is a row of its own, with the accuracy that it has."""
    bundle = many_boards.write_tiny(tmp_path)
    digest = sha256_of(bundle)
    old, new = (
        many_boards.make_record("yolov7-tiny", "int8", "raspberry-pi-4", bundle_sha256=digest, date=date, threads=3)
        for date in ("2026-11-01", "2026-11-20")
    )
    old = msgspec.structs.replace(old, spread=old.spread | {"total": many_boards.spread(1.0)})
    other = many_boards.make_record("yolov7-nano", "mixed", "raspberry-pi-5", batch=2)
    files = [write(tmp_path / f"{i}.json", record) for i, record in enumerate((new, old, other))]
    board = read_all(bundle, *files, files[0])
    tiny, nano = board.rows
    device = "Raspberry Pi 4 Model B, 3 threads"
    assert [(cost.unit, cost.source) for cost in tiny.costs] == [("ms", device), ("network ms", device)]
    assert tiny.costs[0].value == new.spread["total"].median_ms and tiny.licence == OWN_WEIGHTS
    assert nano.ap is not None and nano.ap.value == pytest.approx(56.2 - 0.12) and nano.ap_float is not None
    assert nano.costs[0].value == other.spread["total"].median_ms / 2
    assert len(board.runs) == 3 and any("timed 2 times" in note for note in board.notes)


def test_boards_over_ssh_and_a_fleet(tmp_path: Path) -> None:
    record = many_boards.make_record("yolov7-nano", "mixed", "raspberry-pi-5")
    told = [{"host": "pi@lab", **msgspec.to_builtins(record)}, {"host": "away", "error": {"kind": "AwayError"}}]
    (run,) = read_all(write(tmp_path / "hosts.json", {"boards": told})).runs
    assert run.device == "pi@lab: Raspberry Pi 5 Model B Rev 1.0, 4 threads" and run.record == record
    sent = {"board": "Raspberry Pi 5, 8 GB", "conditions": "", "record": msgspec.to_builtins(record)}
    (run,) = read_all(write(tmp_path / "sent.json", sent)).runs
    assert run.device.startswith("Raspberry Pi 5, 8 GB: ") and run.record == record
    many_boards.write_sources(tmp_path)
    fleet = read_all(tmp_path / "fleet.json")
    assert len(fleet.rows) == len(fleet.runs) == 12 and not fleet.notes
    said = json.loads((tmp_path / "fleet.json").read_text())
    as_told = write(tmp_path / "told.json", {"table": "fleet.json", "rows": said["rows"], "failed": {}})
    assert read_all(as_told).rows == fleet.rows


def test_an_estimate_stands_beside_what_it_is_of(tmp_path: Path) -> None:
    """On the bundle's own board as its cost; elsewhere with the accuracy of the same engine, which says whose it is."""
    bundle, *_ = many_boards.write_sources(tmp_path)
    estimate = tmp_path / "estimate.json"
    pi4, pi3, rk3588 = read_all(bundle, estimate).rows
    assert [row.target for row in (pi4, pi3, rk3588)] == ["raspberry-pi-4", "raspberry-pi-3", "rk3588"]
    (cost,) = pi3.costs
    assert (cost.kind, cost.unit, cost.value) == ("estimated", "network ms", 410.0)
    assert cost.low == pytest.approx(410 / 1.4) and cost.high == pytest.approx(410 * 1.4)
    assert pi3.ap is not None and pi4.ap is not None
    assert (pi3.ap.value, pi3.ap.source, pi4.ap.source) == (pi4.ap.value, "as on raspberry-pi-4", "")
    assert all(row.ap is None for row in read_all(estimate).rows)


def test_what_others_published_is_called_so(tmp_path: Path) -> None:
    rows = published_by_others([ROW])
    (npu,) = [row for row in rows if row.target == "rockchip-rk3588-npu"]
    assert npu.costs[0].value == 13.8 and "airockchip" in npu.read_from[0]  # its README
    assert {(row.model, cost.kind) for row in rows for cost in row.costs} == {("yolov7-tiny", "published")}
    path = write(tmp_path / "rows.json", [ROW])
    assert len(read_all(path, published=True).rows) == 1 + len(rows) == len(read_all(path).rows) + len(rows)


def test_the_data_come_back_as_they_were(tmp_path: Path) -> None:
    sources = many_boards.write_sources(tmp_path)
    result = verbs.report(sources, ReportOptions(out=tmp_path / "page.html"))
    again = read_all(write(tmp_path / "board.json", result.board), *sources[:1])
    assert again.rows == result.board.rows and again.runs == result.board.runs
    kinds = {figure.kind for row in again.rows for figure in (row.ap, *row.costs) if figure}
    assert kinds == {"measured", "simulated", "counted", "estimated", "published"}


def test_the_float_model_is_found_among_the_rows(tmp_path: Path) -> None:
    """That of the same checkpoint on the same pictures, and no other."""
    base = msgspec.structs.replace(ROW, checkpoint="c" * 64, data="d", split="test")
    floats = [
        msgspec.structs.replace(base, precision="fp32", ap=many_boards.figure(51.0, "AP")),
        msgspec.structs.replace(base, precision="fp32", ap=many_boards.figure(52.0, "AP"), split="val"),
        msgspec.structs.replace(
            base, precision="fp32", ap=many_boards.figure(53.0, "AP"), checkpoint="e" * 64, sha256="1"
        ),
    ]
    quantized, *others = read_all(write(tmp_path / "rows.json", [base, *floats])).rows
    assert quantized.ap_float == many_boards.figure(51.0, "AP")
    assert [row.ap_float for row in others] == [None] * 3


def test_rows_of_one_artefact_are_one_row(tmp_path: Path) -> None:
    elsewhere = msgspec.structs.replace(ROW, costs=(many_boards.figure(31.0, "ms", source="there"),), sha256="")
    (row,) = read_all(write(tmp_path / "a.json", [ROW, ROW]), write(tmp_path / "b.json", {"rows": [elsewhere]})).rows
    assert {(cost.source, cost.value) for cost in row.costs} == {("here", 20.0), ("there", 31.0)}
    assert row.read_from == ("a.json", "b.json")


@pytest.mark.parametrize(
    "change",
    [
        {"ap": many_boards.figure(51.0, "AP")},
        {"costs": (many_boards.figure(21.0, "ms", source="here"),)},
    ],
    ids=["accuracy", "time"],
)
def test_rows_that_disagree_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    other = msgspec.structs.replace(ROW, **change)
    with pytest.raises(FormatError, match=r"b.json and a.json|a.json and b.json") as caught:
        read_all(write(tmp_path / "a.json", [ROW]), write(tmp_path / "b.json", [other]))
    assert "yolov7-tiny ncnn 1 int8 pi disagree" in caught.value.what
    apart = [msgspec.structs.replace(row, sha256=digit * 64) for row, digit in ((ROW, "1"), (other, "2"))]
    assert len(read_all(write(tmp_path / "c.json", apart)).rows) == 2


def test_gaps_are_told(tmp_path: Path) -> None:
    bare = [ScoreboardRow(model="a"), ScoreboardRow(model="b", ap=ROW.ap), ScoreboardRow(model="c", costs=ROW.costs)]
    notes = read_all(write(tmp_path / "rows.json", bare)).notes
    assert [note.partition(" (")[0] for note in notes] == [
        "2 of 3 rows have no accuracy",
        "2 of 3 rows have no latency",
    ]


def broken(tmp_path: Path) -> dict[str, tuple[Path, type[EdgeYoloError], str]]:
    """Sources that cannot be used, the error of each, and what it says."""
    many_boards.write_sources(tmp_path)
    fleet = json.loads((tmp_path / "fleet.json").read_text()) | {"format_version": 2}
    report = json.loads(encode_json(small_report())) | {"format_version": 99}
    board = {"format_version": "two", "rows": [], "runs": []}
    untimed = msgspec.to_builtins(many_boards.make_hot_record()) | {"spread": {}}
    unknown = {"title": "x", "created": "", "rows": [{"model": "a", "presicion": "int8"}], "runs": []}
    (tmp_path / "text.json").write_bytes(b"\xffnot JSON")
    (tmp_path / "empty").mkdir()
    return {
        "nothing": (tmp_path / "absent", UsageError, "does not exist"),
        "folder": (tmp_path / "empty", UsageError, "no verb has written"),
        "text": (tmp_path / "text.json", FormatError, "is no JSON"),
        "number": (write(tmp_path / "number.json", 7), FormatError, "no record that `report` knows"),
        "record": (write(tmp_path / "other.json", {"pictures": []}), FormatError, "no record that `report` knows"),
        "fleet": (write(tmp_path / "newer.json", fleet), FormatError, "is of format 2"),
        "report": (write(tmp_path / "report.json", report), FormatError, "is of format 99"),
        "board": (write(tmp_path / "board.json", board), FormatError, "is of format two"),
        "key": (write(tmp_path / "key.json", unknown), FormatError, "Did you mean 'precision'"),
        "times": (write(tmp_path / "times.json", untimed), FormatError, "has no times of a whole call"),
        "rows": (write(tmp_path / "rows.json", {"rows": 3}), FormatError, "Expected `array`"),
    }


CASES = ("nothing", "folder", "text", "number", "record", "fleet", "report", "board", "key", "times", "rows")


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_read_is_named(case: str, tmp_path: Path) -> None:
    path, error, said = broken(tmp_path)[case]
    with pytest.raises(error) as caught:
        read_source(path)
    assert said in str(caught.value) and str(path) in caught.value.where


def test_a_bundle_of_a_newer_format(tmp_path: Path) -> None:
    manifest = {"format_version": 2}
    write(tmp_path / "manifest.json", manifest)
    with pytest.raises(BundleError, match="Update edgeyolo"):
        read_source(tmp_path)


def test_nothing_is_written_where_something_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(UsageError, match="nothing is given"):
        verbs.report([], ReportOptions(out=page))
    with pytest.raises(FormatError):
        verbs.report([write(tmp_path / "other.json", {})], ReportOptions(out=page))
    with pytest.raises(UsageError, match="both in float and in int8"):
        verbs.report([write(tmp_path / "rows.json", [ROW])], ReportOptions(out=page, pictures=tmp_path))
    assert not page.exists()


def test_float_stands_beside_int8(whole_way: WholeWay, tmp_path: Path) -> None:
    """Of a quantized folder: as many pictures as are asked for, of those that a pattern matches."""
    pictures = whole_way.data / "images" / "test" / "*[0-2].*"
    options = ReportOptions(out=tmp_path / "page.html", pictures=pictures, show=2)
    result = verbs.report([whole_way.quantized], options)
    assert result.pictures == 2 and result.page.read_text().count("data:image/jpeg;base64,") == 2
    assert "objects in both" in result.page.read_text()
