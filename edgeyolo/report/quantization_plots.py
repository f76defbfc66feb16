"""Plots of a quantization as PNG: what each artefact reaches, where noise comes in, which groups cost most, and QAT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeyolo.evaluation.curves import STEPS, Curves
from edgeyolo.quantization.study.sensitivity import Sensitivity, SensitivityRow
from edgeyolo.quantization.study.signal_left import SQNR_LIMIT_DB, LayerSignal
from edgeyolo.report.figures import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    encode_png,
    epoch_marker,
    epoch_span,
    make_figure,
    plain_names,
    tidy_axes,
)
from edgeyolo.report.page import ap_text
from edgeyolo.report.quantization import ArtefactRow, QatHistory
from edgeyolo.spec.transfer import ScoreTransfer

_MOST_BARS = 40
_MOST_CLASSES = 6  # with curves of their own
_NOISY_DB = 20.0  # an error of a tenth of the signal


@dataclass(frozen=True)
class Overlay:
    """The float model and an int8 artefact on the same pictures.

    Attributes:
        names: of the classes that the rows of the curves are of.
        transfer: what stands for the float model's thresholds.
    """

    float_model: Curves
    artefact: Curves
    names: Sequence[str]
    transfer: ScoreTransfer


def draw_overlay(overlay: Overlay) -> bytes:
    """Precision over recall and F1 over the score asked for, float and int8, of the first classes that have objects."""
    rows = [k for k in range(len(overlay.names)) if not np.isnan(overlay.float_model.f1[k]).any()][:_MOST_CLASSES]
    figure = make_figure(10, 0.4 + 2.4 * max(len(rows), 1))
    grid = figure.subplots(max(len(rows), 1), 2, squeeze=False)
    wanted = overlay.transfer.score_threshold
    for k, (recall, score) in zip(rows, grid, strict=False):
        name = overlay.names[k]
        for curves, colour, label in ((overlay.float_model, GREEN, "float"), (overlay.artefact, BLUE, "int8")):
            recall.plot(STEPS, curves.precision[k], color=colour, lw=1.6, label=label)
            score.plot(STEPS, curves.f1[k], color=colour, lw=1.6, label=label)
        score.axvline(wanted, color=GREEN, lw=1, ls="--")
        score.axvline(overlay.transfer.maps[name].of(wanted), color=BLUE, lw=1, ls="--")
        recall.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        score.set(xlabel="score asked for", ylabel="F1", xlim=(0, 1), ylim=(0, 1.02))
        for axes in (recall, score):
            axes.set_title(*plain_names([name]), fontsize=10)
            tidy_axes(axes)
        recall.legend(frameon=False, loc="lower left")
    return encode_png(figure)


def draw_ap(rows: Sequence[ArtefactRow]) -> bytes:
    """AP of each artefact, and what it is above or below the float model."""
    figure = make_figure(10, 0.9 + 0.28 * len(rows))
    axes = figure.subplots()
    _bars(
        axes,
        [f"{row.score.artefact}, {row.score.split}" for row in rows],
        [max(row.score.ap, 0.0) for row in rows],
        [ap_text(row.score.ap) + (f" ({-row.drop:+.2f})" if row.drop else "") for row in rows],
        [GREEN if row.score.artefact.startswith("float") else BLUE for row in rows],
    )
    axes.set(xlabel="AP, percent")
    return encode_png(figure)


def draw_signal(signal: Sequence[LayerSignal]) -> bytes:
    """The layers with the most noise, in the order of the network; decibels."""
    noisiest = {row.path for row in sorted(signal, key=lambda row: row.sqnr_db)[:_MOST_BARS]}
    rows = [row for row in signal if row.path in noisiest and row.sqnr_db < SQNR_LIMIT_DB]
    figure = make_figure(10, 0.9 + 0.24 * len(rows))
    axes = figure.subplots()
    values = [row.sqnr_db for row in rows]
    colours = [ORANGE if value < _NOISY_DB else BLUE for value in values]
    _bars(axes, [row.path for row in rows], values, [f"{value:.1f}" for value in values], colours)
    axes.set(xlabel="SQNR, dB")
    return encode_png(figure)


def draw_sensitivity(sensitivity: Sensitivity) -> bytes:
    """The most costly groups: KL alone on the left, AP regained by floating it on the right where measured."""
    rows = sensitivity.rows[:_MOST_BARS]
    base = sensitivity.map_int8
    is_measured = base is not None and any(row.map_float is not None for row in rows)
    figure = make_figure(10, 0.9 + 0.26 * len(rows))
    axes = figure.subplots(1, 2 if is_measured else 1, sharey=True, squeeze=False)[0]
    names = [_group_name(row) for row in rows]
    values = [row.kl_alone for row in rows]
    _bars(axes[0], names, values, [f"{value:.3g}" for value in values], [BLUE] * len(rows))
    axes[0].set(xlabel="KL of the scores, this group alone in int8, nats per picture")
    if is_measured:
        gains = [None if row.map_float is None else row.map_float - (base or 0.0) for row in rows]
        texts = ["" if gain is None else f"{gain:+.2f}" for gain in gains]
        _bars(axes[1], names, [gain or 0.0 for gain in gains], texts, [ORANGE] * len(rows))
        axes[1].invert_yaxis()  # shared with the first, which has turned it already
        axes[1].set(xlabel="AP points regained with this group float")
    return encode_png(figure)


def draw_qat(qat: QatHistory) -> bytes:
    """AP by epoch, the start as a dashed line, a ring around the epoch whose weights were kept."""
    measured = [row for row in qat.epochs if row.ap is not None]
    figure = make_figure(10, 3.4)
    axes = figure.subplots()
    epochs = [row.epoch for row in measured]
    axes.plot(epochs, [row.ap for row in measured], color=BLUE, lw=1.8, marker=epoch_marker(epochs), label="AP")
    axes.axhline(qat.start_ap, color=INK, lw=1, ls="--", label=f"start {qat.start_ap:.2f}")
    kept = next((row for row in measured if row.epoch == qat.best_epoch), None)
    if kept is not None:
        axes.plot([kept.epoch], [kept.ap], "o", ms=10, mfc="none", mec=INK, mew=1.5, clip_on=False)
    axes.set(xlabel="epoch", ylabel="AP, percent", xlim=epoch_span(epochs or [1]))
    axes.xaxis.get_major_locator().set_params(integer=True)
    tidy_axes(axes)
    axes.legend(frameon=False)
    return encode_png(figure)


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], texts: Sequence[str], colours: list[str]) -> None:
    """Horizontal bars from zero, the first on top, each with its text at its end."""
    places = range(len(names))
    axes.barh(places, values, color=colours, height=0.7)
    axes.set_yticks(places, plain_names(names))
    for place, value, text in zip(places, values, texts, strict=True):
        axes.annotate(
            text,
            (value, place),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=8,
            color=INK,
        )
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.axvline(0, color=INK, lw=0.8)
    tidy_axes(axes)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelsize=8)


def _group_name(row: SensitivityRow) -> str:
    more = f" + {len(row.layers) - 1}" if len(row.layers) > 1 else ""
    return f"{row.group}  {row.layers[0] if row.layers else ''}{more}"
