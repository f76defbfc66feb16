"""The report: what is written can be read back, the page is whole, loads nothing, and escapes what it is given."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from small_report import SCORES, make_score, small_report

from edgeyolo.evaluation.parity import MapDifference
from edgeyolo.quantization.study.budget import BudgetStep
from edgeyolo.quantization.study.sensitivity import Agreement, Sensitivity, SensitivityRow
from edgeyolo.quantization.study.signal_left import SQNR_LIMIT_DB, LayerSignal
from edgeyolo.report import quantization_plots as plots
from edgeyolo.report.quantization import (
    BudgetTrail,
    EngineDifference,
    QatHistory,
    QuantizationReport,
    WorstPicture,
    artefact_rows,
)
from edgeyolo.report.quantization_page import write_report
from edgeyolo.spec.calibration_finding import CalibrationFinding
from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.spec.receptive_field import ReceptiveField
from edgeyolo.spec.strict import load_json
from edgeyolo.training.checkpoint import EpochRow

NASTY = "<b onload='x'>&amp; \"cells\"</b>"
VOID = {"meta", "br", "img"}
PNG = b"\x89PNG"


def make_sensitivity(most: int, groups: int = 6) -> Sensitivity:
    """Groups of which the first `most` have an AP."""
    rows = tuple(
        SensitivityRow(
            group=f"g{i}",
            layers=(f"stem.{i}", "join"),
            sqnr_db_float=31.5,
            kl_float=0.1,
            sqnr_db_alone=30.0 - i,
            kl_alone=0.6 - 0.1 * i,
            map_float=55.8 - 0.5 * i if i < most else None,
            map_alone=55.0 if i < most else None,
        )
        for i in range(groups)
    )
    agreement = (
        Agreement("kl_float", "map_float", most, -0.5),
        Agreement("kl_alone", "map_alone", most, 0.87),
    )
    return Sensitivity(rows, 31.0, 0.7, 55.4 if most else None, 16, agreement if most else ())


def make_epoch(epoch: int, ap: float | None) -> EpochRow:
    return EpochRow(epoch=epoch, losses={"total": 1.0 / epoch}, learning_rate=1e-4, seconds=1.0, ap=ap)


def full_report() -> QuantizationReport:
    drift = MapDifference(map_name="map_0", relative_rms=0.0123, relative_max=0.02, correlation=0.9999)
    return small_report(
        title=NASTY,
        signal=(
            LayerSignal("stem", 38.5, 40.5),
            LayerSignal(NASTY, 12.25, 30.0),
            LayerSignal("out", SQNR_LIMIT_DB, SQNR_LIMIT_DB),
        ),
        sensitivity=make_sensitivity(most=2),
        qat=QatHistory(
            start_ap=54.0,
            best_epoch=2,
            epochs=tuple(make_epoch(e, 54.0 + 0.3 * e * (e < 3)) for e in (1, 2, 3)),
        ),
        budget=BudgetTrail(
            max_drop=0.3,
            artefact="ncnn int8",
            is_met=True,
            floated=("g3",),
            steps=(BudgetStep((), 0, 54.9, 0.6), BudgetStep(("g3",), 2, 55.3, 0.2)),
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


def test_levels_stand_beside_anchors_and_objects(tmp_path: Path) -> None:
    field = ReceptiveField(stride=8, theoretical_hw=(795, 771), effective_px=131)
    write_report(tmp_path, small_report(receptive_fields=(field,), object_sides_px=(7.6, 30.0, 88.2)), {})
    text, page = read_page(tmp_path)
    assert page.rows["fields"][1] == ["8", "795 x 771", "131", "8 x 8"]
    assert "8, 30, 88 px" in text


def test_what_is_wrong_with_calibration_pictures_is_told(tmp_path: Path) -> None:
    found = CalibrationFinding(
        fault="held-out", verdict="accepted", value=0.25, limit=0.02, what=f"a quarter of {NASTY}", hint="Take others"
    )
    report = small_report(findings=(found,))
    write_report(tmp_path, report, {})
    assert load_json(tmp_path / "report.json", QuantizationReport) == report
    _, page = read_page(tmp_path)
    assert page.rows["findings"][1] == ["held-out", "accepted", "0.25", "0.02", f"a quarter of {NASTY}. Take others."]


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
    assert page.rows["signal"][2] == [NASTY, "12.25", "30.00"]
    assert page.rows["signal"][3] == ["out", "no noise", "no noise"]
    assert page.rows["sensitivity"][1] == ["g0", "0.6", "0.40", "0.50", "0.50", "30.00", "stem.0, join"]
    assert page.rows["sensitivity"][3] == ["g2", "0.4", "-", "-", "0.50", "28.00", "stem.2, join"]
    assert page.rows["qat"][2] == ["2", "0.5", "54.60"]
    assert page.rows["budget"][1:] == [["0", "54.90", "0.60", "none"], ["1", "55.30", "0.20", "g3"]]
    assert page.rows["parity"][1] == ["ncnn int8", "map_0", "0.0123", "0.0200", "0.999900", "0.1230 %"]
    assert page.rows["provenance"][1] == ["recipe", "int8-mse (ptq)"]
    assert ["observer", "mse"] in page.rows["recipe"]
    assert "Spearman correlation of 0.87" in text and "Kullback-Leibler" in text
    assert text.count('<tr class="kept"><td>1</td>') == 1
    assert text.count("data:image/png") == 4
    assert (tmp_path / "sensitivity.png").read_bytes().startswith(PNG)


def test_an_unmet_budget_marks_the_most_accurate_choice_wherever_it_stands(tmp_path: Path) -> None:
    steps = tuple(BudgetStep(("g1",) * n, n, ap, 55.5 - ap) for n, ap in ((0, 50.0), (1, 54.0), (2, 53.0)))
    budget = BudgetTrail(max_drop=0.3, artefact="ncnn int8", is_met=False, floated=("g1",), steps=steps)
    write_report(tmp_path, small_report(budget=budget), {})
    text, _ = read_page(tmp_path)
    assert "not met. In bold, the choice that was written, the most accurate one" in " ".join(text.split())
    assert re.findall(r'class="kept"><td>(\d+)</td>\s*<td>([\d.]+)', text) == [("1", "54.00")]


def test_a_figure_that_is_not_defined_is_a_dash_and_comes_back(tmp_path: Path) -> None:
    constant = MapDifference(map_name="map_0", relative_rms=None, relative_max=None, correlation=None)
    parity = (EngineDifference(artefact="ncnn int8", pictures=2, maps=(constant,)),)
    write_report(tmp_path, small_report(parity=parity), {})
    assert load_json(tmp_path / "report.json", QuantizationReport).parity == parity
    assert read_page(tmp_path)[1].rows["parity"][1] == ["ncnn int8", "map_0", "-", "-", "-"]


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    write_report(tmp_path, full_report(), {NASTY: b"\xff\xd8not really\xff\xd9"})
    text, page = read_page(tmp_path)
    assert {source.split(",")[0] for source in page.sources} == {"data:image/png;base64", "data:image/jpeg;base64"}
    assert "script" not in page.tags and "link" not in page.tags and "b" not in page.tags
    assert not re.search(r"url\(|@import", text)
    assert "://" not in text


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib.figure"])
def test_without_its_packages_the_json_is_still_written(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingPackageError, match=rf"{missing.partition('.')[0]}.*edgeyolo\[report\]"):
        write_report(tmp_path, small_report(), {})
    assert load_json(tmp_path / "report.json", QuantizationReport).groups == 24
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("most", [0, 2, 6])
def test_the_sensitivity_plot_has_a_half_for_ap_where_measured(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars in the order of the rows, from the top, as long as their values."""
    figures = []
    monkeypatch.setattr(plots, "encode_png", lambda figure: figures.append(figure) or PNG)
    sensitivity = make_sensitivity(most)
    plots.draw_sensitivity(sensitivity)
    axes = figures[0].axes
    assert len(axes) == (2 if most else 1)
    assert [bar.get_width() for bar in axes[0].patches] == [row.kl_alone for row in sensitivity.rows]
    low, high = axes[0].get_ylim()
    assert low > high, "the first row is on top"
    if most:
        gains = [55.8 - 0.5 * i - 55.4 if i < most else 0.0 for i in range(6)]
        assert [bar.get_width() for bar in axes[1].patches] == pytest.approx(gains)
        assert axes[1].get_ylim() == axes[0].get_ylim()


def test_plots_of_many_and_of_one() -> None:
    layers = [LayerSignal(f"layer.{i}", float((7 * i) % 60), 40.0) for i in range(60)]
    qat = QatHistory(start_ap=54.0, best_epoch=1, epochs=(make_epoch(1, 54.5),))
    unmeasured = QatHistory(start_ap=54.0, best_epoch=0, epochs=(make_epoch(1, None),))
    for png in (
        plots.draw_ap(artefact_rows(SCORES)),
        plots.draw_signal(layers),
        plots.draw_signal([LayerSignal("out", SQNR_LIMIT_DB, SQNR_LIMIT_DB)]),
        plots.draw_sensitivity(make_sensitivity(0, groups=60)),
        plots.draw_qat(qat),
        plots.draw_qat(unmeasured),
    ):
        assert png.startswith(PNG)
