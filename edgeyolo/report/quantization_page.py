"""`QuantizationReport` -> `report.json`, `report.html` and `sensitivity.png`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeyolo.heads import head_of
from edgeyolo.quantization.study.sensitivity import Sensitivity
from edgeyolo.quantization.study.signal_left import SQNR_LIMIT_DB
from edgeyolo.report import quantization_plots as plots
from edgeyolo.report.page import embed, fill_template
from edgeyolo.report.quantization import ArtefactRow, QuantizationReport
from edgeyolo.report.quantization_plots import Overlay
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.figure import FLOAT_ARTEFACT
from edgeyolo.spec.receptive_field import ReceptiveField
from edgeyolo.spec.strict import encode_json


def write_report(
    folder: Path, report: QuantizationReport, pictures: Mapping[str, bytes], overlay: Overlay | None = None
) -> None:
    """Write `report.json`, then `report.html`, one file that loads nothing from elsewhere, and its plot of sensitivity.

    Args:
        pictures: JPEG of each of `report.worst`, by image id.
        overlay: curves of the float model and of an int8 artefact.

    Raises:
        OutputError: the folder cannot be written.
        MissingPackageError: jinja2 or matplotlib is not installed; `report.json` is there all the same.
    """
    write_file(folder / "report.json", encode_json(report))
    drawn = _draw(report)
    if overlay is not None:
        drawn["overlay"] = plots.draw_overlay(overlay)
    page = fill_template(
        "quantization.html.j2",
        needed_for="report.html",
        report=report,
        recipe=msgspec.to_builtins(report.provenance.recipe),
        classes=list(dict.fromkeys(name for row in report.rows for name in row.score.per_class)),
        has_time=any(row.latency for row in report.rows),
        headline=_headline(report),
        field_rows=_field_rows(report),
        sqnr_limit_db=SQNR_LIMIT_DB,
        group_rows=_group_rows(report.sensitivity, _float_ap(report)),
        agreement=_agreement(report.sensitivity),
        plots={name: embed(png) for name, png in drawn.items()},
        pictures={name: embed(jpeg) for name, jpeg in pictures.items()},
    )
    if "sensitivity" in drawn:
        write_file(folder / "sensitivity.png", drawn["sensitivity"])
    write_file(folder / "report.html", page.encode())


def _draw(report: QuantizationReport) -> dict[str, bytes]:
    drawn = {}
    if report.rows:
        drawn["ap"] = plots.draw_ap(report.rows)
    if report.signal:
        drawn["signal"] = plots.draw_signal(report.signal)
    if report.sensitivity is not None and report.sensitivity.rows:
        drawn["sensitivity"] = plots.draw_sensitivity(report.sensitivity)
    if report.qat is not None and report.qat.epochs:
        drawn["qat"] = plots.draw_qat(report.qat)
    return drawn


def _headline(report: QuantizationReport) -> str:
    """What a reader in a hurry wants to know: the largest loss among the quantized artefacts that ship."""
    shipped = [row for row in report.rows if "torch" not in row.score.artefact and row.drop is not None]
    measured = shipped or [row for row in report.rows if row.drop is not None and "float" not in row.score.artefact]
    if not measured:
        return "Nothing was measured against the float model."
    worst = max(measured, key=_drop)
    kind = "artefact that ships" if shipped else "artefact measured"
    verb = f"loses {_drop(worst):.2f}" if _drop(worst) >= 0 else f"gains {-_drop(worst):.2f}"
    where = f"{worst.score.artefact}, split {worst.score.split}, {worst.score.images} pictures"
    return f"The worst {kind} {verb} AP against the float model ({where})."


def _field_rows(report: QuantizationReport) -> list[tuple[ReceptiveField, str]]:
    """Each level with its anchors in words, "" where the head has none."""
    decode = report.model.decode
    anchors = dict(zip(decode.strides, head_of(decode).anchors_wh or (), strict=False))
    return [
        (field, ", ".join(f"{width:g} x {height:g}" for width, height in anchors.get(field.stride, ())))
        for field in report.receptive_fields
    ]


def _drop(row: ArtefactRow) -> float:
    return 0.0 if row.drop is None else row.drop


def _float_ap(report: QuantizationReport) -> float | None:
    """Of the float model, on the pictures that sensitivity was measured on."""
    scores = [row.score for row in report.rows if row.score.artefact == FLOAT_ARTEFACT]
    return next((score.ap for score in scores if report.chosen_on in ("", score.split)), None)


def _group_rows(sensitivity: Sensitivity | None, float_ap: float | None) -> list[dict[str, Any]]:
    """What the page says of each scale group; None for a figure that was not measured."""
    if sensitivity is None:
        return []
    return [
        {
            "group": row.group,
            "layers": row.layers,
            "kl_alone": row.kl_alone,
            "ap_regained": _difference(row.map_float, sensitivity.map_int8),
            "ap_lost_alone": _difference(float_ap, row.map_alone),
            "sqnr_regained_db": row.sqnr_db_float - sensitivity.sqnr_db,
            "sqnr_alone_db": row.sqnr_db_alone,
        }
        for row in sensitivity.rows
    ]


def _agreement(sensitivity: Sensitivity | None) -> float | None:
    """Spearman's correlation of the order of the rows with that by mAP."""
    rows = () if sensitivity is None else sensitivity.agreement
    return next((row.spearman for row in rows if row.proxy == "kl_alone"), None)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
