"""`QuantizationReport` -> one HTML page: the template beside this file, filled."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from edgeyolo.report.charts import Bar, bar_chart, line_chart
from edgeyolo.spec.errors import MissingPackageError

if TYPE_CHECKING:
    from edgeyolo.report.quantization import ArtefactRow, QuantizationReport

_TEMPLATE = "quantization.html.j2"
_BLUE, _GREEN, _ORANGE = "#3b7dd8", "#3c9a5f", "#d8823b"
_CHART_LAYERS = 40


def render_page(report: QuantizationReport, pictures: Mapping[str, bytes]) -> str:
    """The page as HTML; text of the report is escaped.

    Raises:
        MissingPackageError: jinja2 is not installed.
    """
    return fill_template(
        _TEMPLATE,
        needed_for="report.html",
        report=report,
        recipe=msgspec.to_builtins(report.provenance.recipe),
        classes=list(dict.fromkeys(name for row in report.rows for name in row.score.per_class)),
        has_time=any(row.latency for row in report.rows),
        headline=_headline(report),
        ap_chart=_ap_chart(report),
        signal_chart=_signal_chart(report),
        sensitivity_chart=_sensitivity_chart(report),
        qat_chart=_qat_chart(report),
        pictures={name: base64.b64encode(jpeg).decode() for name, jpeg in pictures.items()},
    )


def fill_template(name: str, *, needed_for: str, **values: object) -> str:
    """A template of this folder as HTML; text is escaped.

    Args:
        needed_for: the file that is being made.

    Raises:
        MissingPackageError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        install = "pip install 'edgeyolo[report]'"
        raise MissingPackageError("jinja2", needed_for=needed_for, install=install) from None
    source = resources.files("edgeyolo.report").joinpath(name).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["ap"] = _ap
    environment.filters["size"] = _size
    return environment.from_string(source).render(**values)


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


def _drop(row: ArtefactRow) -> float:
    return 0.0 if row.drop is None else row.drop


def _ap_chart(report: QuantizationReport) -> str:
    bars = [
        Bar(
            f"{row.score.artefact}, {row.score.split}",
            max(row.score.ap, 0.0),
            _ap(row.score.ap) + ("" if row.drop is None or not row.drop else f" ({-row.drop:+.2f})"),
            _GREEN if row.score.artefact.startswith("float") else _BLUE,
        )
        for row in report.rows
    ]
    return bar_chart(bars, title="AP of each artefact")


def _signal_chart(report: QuantizationReport) -> str:
    """The layers with the most noise, in the order of the network."""
    known = [(row.layer, row.sqnr_db) for row in report.signal if row.sqnr_db is not None]
    shown = {layer for layer, _ in sorted(known, key=lambda pair: pair[1])[:_CHART_LAYERS]}
    bars = [Bar(layer, value, f"{value:.1f} dB", _ORANGE if value < 20 else _BLUE) for layer, value in known]
    return bar_chart([bar for bar in bars if bar.label in shown], title="SQNR of each layer")


def _sensitivity_chart(report: QuantizationReport) -> str:
    if report.sensitivity is None:
        return ""
    by_ap = any(row.ap_regained is not None for row in report.sensitivity.rows)
    bars = []
    for row in report.sensitivity.rows[:_CHART_LAYERS]:
        value = row.ap_regained if by_ap else row.sqnr_regained_db
        if value is not None:
            unit = "AP" if by_ap else "dB"
            bars.append(Bar(f"{row.group} ({row.layers[0]} ...)", value, f"{value:+.2f} {unit}", _ORANGE))
    return bar_chart(bars, title="What keeping one group float gives back")


def _qat_chart(report: QuantizationReport) -> str:
    if report.qat is None:
        return ""
    qat = report.qat
    points = [(float(point.epoch), point.ap) for point in qat.points]
    reference = f"start {qat.start_ap:.2f}"
    title = "AP of each epoch"
    return line_chart(
        points, reference=qat.start_ap, reference_text=reference, marked=float(qat.best_epoch), title=title
    )


def _ap(value: float) -> str:
    """Percent with two decimals; a dash where undefined."""
    return "-" if value < 0 else f"{value:.2f}"


def _size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "-"
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
