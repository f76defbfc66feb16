"""The report: what is written can be read back, the page is whole, loads nothing, and escapes what it is given."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from edgeyolo.evaluation.parity import MapDifference
from edgeyolo.report import QuantizationReport, artefact_rows, write_report
from edgeyolo.report.charts import Bar, bar_chart, line_chart
from edgeyolo.report.quantization import (
    BudgetStep,
    BudgetTrail,
    EngineDifference,
    LayerSignal,
    Provenance,
    QatHistory,
    QatPoint,
    SensitivityRow,
    SensitivityTable,
    WorstPicture,
)
from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.spec.model import AnchorDecode, InputSpec, Latency, ModelSpec, Score
from edgeyolo.spec.recipe import Recipe
from edgeyolo.spec.strict import load_json

NASTY = "<b onload='x'>&amp; \"cells\"</b>"
VOID = {"meta", "br", "img", "rect", "line", "circle", "polyline"}
SVG = "{http://www.w3.org/2000/svg}"


def make_score(artefact: str, ap: float, split: str = "val") -> Score:
    return Score(
        artefact=artefact,
        data="cells",
        split=split,
        images=72,
        boxes=900,
        ap=ap,
        ap50=80.0,
        ap75=60.0,
        ap_small=-1.0,
        ap_medium=50.0,
        ap_large=70.0,
        per_class={"RBC": ap, "WBC": ap + 1},
    )


SCORES = (
    make_score("float torch", 55.5),
    make_score("fake-quant torch", 55.4),
    make_score("onnxruntime int8", 55.6),
    make_score("ncnn int8", 54.9),
    make_score("ncnn int8", 54.0, split="test"),
)
LATENCY = Latency(device="x86", threads=2, runs=50, total_ms_median=12.34, total_ms_p90=13.0, network_ms_median=9.87)


def small_report(**changes: object) -> QuantizationReport:
    report = QuantizationReport(
        title="cells, int8",
        model=ModelSpec(
            name="yolov7-tiny",
            activation="leaky_relu",
            class_names=("RBC", "WBC"),
            input=InputSpec(image_hw=(320, 256)),
            decode=AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),)),
        ),
        layers={"int8": 55, "float": 3},
        float_reasons={"head output": 3},
        groups=24,
        rows=artefact_rows(SCORES, size_bytes={"ncnn int8": 6_102_242}, latencies={"ncnn int8": LATENCY}),
        provenance=Provenance(
            recipe_name="int8-mse",
            recipe=Recipe(title="MSE"),
            method="ptq",
            data="cells",
            picture_count=256,
            checkpoint_sha256="ab" * 32,
            onnx_sha256="cd" * 32,
            created="2026-01-01T00:00:00+00:00",
            tools={"torch": "2.4"},
        ),
    )
    return msgspec.structs.replace(report, **changes)


def full_report() -> QuantizationReport:
    sensitivity = tuple(
        SensitivityRow(group=f"g{i}", layers=(f"stem.{i}", "join"), ap_regained=0.4 - 0.1 * i, sqnr_alone_db=30.0 - i)
        for i in range(6)
    )
    drift = MapDifference(map_name="map_0", relative_rms=0.0123, relative_max=0.02, correlation=0.9999)
    return small_report(
        title=NASTY,
        signal=(
            LayerSignal(layer="stem", sqnr_db=38.5),
            LayerSignal(layer=NASTY, sqnr_db=12.25),
            LayerSignal(layer="out", sqnr_db=None),
        ),
        sensitivity=SensitivityTable(rows=sensitivity, rank_agreement=0.87),
        qat=QatHistory(
            start_ap=54.0,
            best_epoch=2,
            points=tuple(QatPoint(epoch=e, loss=1.0 / e, ap=54.0 + 0.3 * e * (e < 3)) for e in (1, 2, 3)),
        ),
        budget=BudgetTrail(
            max_drop=0.3,
            artefact="ncnn int8",
            is_met=True,
            steps=(BudgetStep(floated=(), ap=54.9, drop=0.6), BudgetStep(floated=("g3",), ap=55.3, drop=0.2)),
        ),
        parity=(EngineDifference(artefact="ncnn int8", pictures=16, maps=(drift,), integers_differing=0.00123),),
        worst=(
            WorstPicture(
                image_id=NASTY,
                caption="2 objects only in float",
                matched=3,
                only_float=2,
                only_int8=0,
                mean_iou=0.9,
                mean_score_difference=0.05,
            ),
        ),
    )


class Page(HTMLParser):
    """Checks that tags close in order; collects tables, images and links."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.title = ""
        self._table = ""
        self._is_cell = False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "data", "srcset", "action")]
        assert not any(key.startswith("on") for key in values)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = values.get("id") or "unnamed"
            self.rows[self._table] = []
        if tag == "tr":
            self.rows[self._table].append([])
        if tag in ("td", "th"):
            self._is_cell = True
            self.rows[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag
        self._is_cell = self._is_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.rows[self._table][-1][-1] += data.strip()
        if self.open and self.open[-1] == "title":
            self.title += data


def read_page(folder: Path) -> tuple[str, Page]:
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_drops_are_against_the_float_model_of_the_same_split() -> None:
    rows = artefact_rows(SCORES)
    assert [row.drop for row in rows] == [0.0, pytest.approx(0.1), pytest.approx(-0.1), pytest.approx(0.6), None]
    undefined = artefact_rows([make_score("float torch", -1.0), make_score("ncnn int8", 3.0)])
    assert [row.drop for row in undefined] == [None, None]


def test_the_json_comes_back_as_it_was(tmp_path: Path) -> None:
    report = full_report()
    write_report(tmp_path / "new", report, {})
    assert load_json(tmp_path / "new/report.json", QuantizationReport) == report


def test_the_page_has_a_row_for_each_artefact_with_its_figures(tmp_path: Path) -> None:
    write_report(tmp_path, small_report(), {})
    _, page = read_page(tmp_path)
    rows = page.rows["artefacts"]
    assert [len(row) for row in rows] == [14] * 6
    assert "|".join(rows[4]) == "ncnn int8|val|72|54.90|0.60|80.00|60.00|-|50.00|70.00|5.82 MiB|12.34|9.87|2"
    assert rows[5][4] == "-"
    assert page.rows["classes"][1] == ["float torch", "val", "55.50", "56.50"]
    for absent in ("signal", "sensitivity", "qat", "budget", "parity"):
        assert absent not in page.rows


def test_the_headline_names_the_worst_artefact_that_ships(tmp_path: Path) -> None:
    write_report(tmp_path, small_report(), {})
    text, _ = read_page(tmp_path)
    assert "The worst artefact that ships loses 0.60 AP against the float model (ncnn int8, split val, 72" in text
    write_report(tmp_path, small_report(rows=artefact_rows(SCORES[:2])), {})
    assert "worst artefact measured loses 0.10 AP" in read_page(tmp_path)[0]
    write_report(tmp_path, small_report(rows=artefact_rows(SCORES[:1])), {})
    assert "Nothing was measured" in read_page(tmp_path)[0]


def test_every_part_has_its_place(tmp_path: Path) -> None:
    write_report(tmp_path, full_report(), {NASTY: b"\xff\xd8not really\xff\xd9"})
    text, page = read_page(tmp_path)
    assert page.title == NASTY
    assert page.rows["signal"][2] == [NASTY, "12.25"]
    assert page.rows["signal"][3] == ["out", "no noise"]
    assert page.rows["sensitivity"][1] == ["g0", "0.40", "-", "-", "30.00", "stem.0, join"]
    assert page.rows["qat"][2] == ["2", "0.5", "54.60"]
    assert page.rows["budget"][1:] == [["0", "54.90", "0.60", "none"], ["1", "55.30", "0.20", "g3"]]
    assert page.rows["parity"][1] == ["ncnn int8", "map_0", "0.0123", "0.0200", "0.999900", "0.1230 %"]
    assert page.rows["provenance"][1] == ["recipe", "int8-mse (ptq)"]
    assert ["observer", "mse"] in page.rows["recipe"]
    assert "correlation of\n0.87" in text
    assert text.count("<svg") == 4


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    write_report(tmp_path, full_report(), {NASTY: b"\xff\xd8not really\xff\xd9"})
    text, page = read_page(tmp_path)
    assert [source.split(",")[0] for source in page.sources] == ["data:image/jpeg;base64"]
    assert "script" not in page.tags and "link" not in page.tags and "b" not in page.tags
    assert not re.search(r"url\(|@import", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_without_jinja2_the_json_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingPackageError, match=r"jinja2.*edgeyolo\[report\]"):
        write_report(tmp_path, small_report(), {})
    assert load_json(tmp_path / "report.json", QuantizationReport).groups == 24
    assert not (tmp_path / "report.html").exists()


def test_the_room_works_where_there_is_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; import edgeyolo.report.page, edgeyolo.report.pictures"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_bars_are_as_long_as_their_values() -> None:
    bars = [Bar("a & b", 3.0, "3"), Bar("c", -1.0, "-1"), Bar("d", 0.0, "0")]
    root = ElementTree.fromstring(bar_chart(bars, title="<t>"))
    lengths = [float(rect.get("width", "nan")) for rect in root.iter(f"{SVG}rect")]
    starts = [float(rect.get("x", "nan")) for rect in root.iter(f"{SVG}rect")]
    zero = float(next(root.iter(f"{SVG}line")).get("x1", "nan"))
    assert lengths[0] == pytest.approx(3 * lengths[1], rel=1e-2) and lengths[2] == 0
    assert starts == [pytest.approx(zero), pytest.approx(zero - lengths[1]), pytest.approx(zero)]
    assert root.get("aria-label") == "<t>"
    width = float(root.get("viewBox", "").split()[2])
    assert all(0 <= x <= width - length for x, length in zip(starts, lengths, strict=True))
    assert bar_chart([], title="") == ""


@pytest.mark.parametrize("ys", [(1.0, 2.0, 1.5), (5.0, 5.0, 5.0), (-3.0, 0.001, 70.0)])
def test_a_curve_keeps_its_shape_inside_the_frame(ys: tuple[float, ...]) -> None:
    points = [(float(i + 1), y) for i, y in enumerate(ys)]
    svg = line_chart(points, reference=1.2, reference_text="start <1.2>", marked=2.0, title="t")
    root = ElementTree.fromstring(svg)
    placed = [
        tuple(map(float, pair.split(","))) for pair in next(root.iter(f"{SVG}polyline")).get("points", "").split()
    ]
    assert all(60 <= x <= 880 and 14 <= y <= 250 for x, y in placed)
    ticks = {
        float(t.text or "nan"): float(t.get("y", "nan")) - 4
        for t in root.iter(f"{SVG}text")
        if t.get("text-anchor") == "end" and "start" not in (t.text or "")
    }
    (low, y_low), (high, y_high) = min(ticks.items()), max(ticks.items())
    assert low <= min(*ys, 1.2) and high >= max(*ys, 1.2)
    for (_, y), (_, y_px) in zip(points, placed, strict=True):
        assert y_px == pytest.approx(y_low + (y - low) / (high - low) * (y_high - y_low), abs=0.2)
    radii = [circle.get("r") for circle in root.iter(f"{SVG}circle")]
    assert radii == ["3", "6", "3"]
    assert line_chart([], reference=0.0, reference_text="", marked=0.0, title="") == ""


def test_one_epoch_is_a_curve_too() -> None:
    ElementTree.fromstring(line_chart([(1.0, 2.0)], reference=2.0, reference_text="", marked=0.0, title=""))
