"""Plots of a training as PNG: its curves, what each class reaches, what is taken for what, and what the labels are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeyolo.evaluation.curves import STEPS, Curves
from edgeyolo.report.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    encode_png,
    epoch_marker,
    epoch_span,
    make_figure,
    plain_names,
    tidy_axes,
)
from edgeyolo.report.labels import LabelStatistics
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.detections import Int64
from edgeyolo.spec.errors import MissingPackageError

if TYPE_CHECKING:
    from edgeyolo.training.checkpoint import EpochRow

_MOST_LINES = 10  # classes with a line and an entry of their own
_MOST_NUMBERS = 16  # classes of a matrix whose cells carry numbers
_MOST_NAMES = 45  # classes whose names fit an axis
_MOST_BARS = 30


def write_curves(path: Path, history: Sequence[EpochRow]) -> None:
    """`curves.png` of a run that goes on: loss parts on the left, AP and AP50 on the right.

    Nothing is written where matplotlib is not installed.

    Raises:
        OutputError: the path cannot be written.
    """
    try:
        figure = make_figure(10, 4)
    except MissingPackageError:
        return
    losses, scores = figure.subplots(1, 2)
    epochs = [row.epoch for row in history]
    for part in _parts(history):
        losses.plot(epochs, [row.losses.get(part, float("nan")) for row in history], label=part)
    losses.set(xlabel="epoch", ylabel="loss", yscale="log")
    measured = [row for row in history if row.ap is not None]
    for name, colour in (("ap50", GREEN), ("ap", BLUE)):
        values = [getattr(row, name) for row in measured]
        scores.plot([row.epoch for row in measured], values, color=colour, label=name.upper())
    scores.set(xlabel="epoch", ylabel="percent", ylim=(0, 100))
    for axes in (losses, scores):
        tidy_axes(axes)
        axes.legend(frameon=False)
    write_file(path, encode_png(figure))


def _parts(history: Sequence[EpochRow]) -> list[str]:
    """Of the loss, in any epoch; a teacher may leave before the last one."""
    return list(dict.fromkeys(part for row in history for part in row.losses))


def draw_losses(history: Sequence[EpochRow]) -> bytes:
    """Every loss part by epoch, each on its own scale, and the learning rate."""
    parts = _parts(history)
    epochs = [row.epoch for row in history]
    series = {f"loss: {part}": [row.losses.get(part, float("nan")) for row in history] for part in parts}
    series["learning rate"] = [row.learning_rate for row in history]
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    figure = make_figure(10, 2.5 * rows + 0.2)
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, (name, values) in zip(axes.flat, series.items(), strict=False):
        place.plot(
            epochs, values, color=ORANGE if name == "learning rate" else BLUE, lw=1.6, marker=epoch_marker(epochs)
        )
        place.set_title(name, fontsize=10)
        place.set_xlim(*epoch_span(epochs))
        tidy_axes(place)
    for place in axes.flat[len(series) :]:
        place.axis("off")
    return encode_png(figure)


def draw_ap(history: Sequence[EpochRow], best_epoch: int) -> bytes:
    """AP and AP50 by epoch, with a ring around the best."""
    measured = [row for row in history if row.ap is not None]
    figure = make_figure(10, 3.6)
    axes = figure.subplots()
    epochs = [row.epoch for row in measured]
    for name, colour in (("ap50", GREEN), ("ap", BLUE)):
        values = [getattr(row, name) for row in measured]
        axes.plot(epochs, values, color=colour, lw=1.8, label=name.upper(), marker=epoch_marker(epochs))
    best = next((row for row in measured if row.epoch == best_epoch), None)
    if best is not None:
        axes.plot([best.epoch], [best.ap], "o", ms=10, mfc="none", mec=INK, mew=1.5, clip_on=False)
        _note(axes, f"best {best.ap:.2f}, epoch {best.epoch}", best.epoch, float(best.ap or 0))
    axes.set(xlabel="epoch", ylabel="percent", xlim=epoch_span(epochs or [1]))
    axes.set_ylim(0, max([5.0, *(float(row.ap50 or 0) for row in measured)]) * 1.12)
    tidy_axes(axes)
    if measured:
        axes.legend(frameon=False, loc="lower right")
    return encode_png(figure)


def draw_precision_recall(curves: Curves, class_names: Sequence[str]) -> bytes:
    """Precision over recall of each class and their mean, at IoU 0.5."""
    named = [
        f"{name}  {100 * p.mean():.1f}" for name, p in zip(plain_names(class_names), curves.precision, strict=True)
    ]
    mean = _mean_of_known(curves.precision)
    return _class_lines(
        curves.precision, named, mean, f"mean  {100 * float(mean.mean()):.1f}", xlabel="recall", ylabel="precision"
    )


def draw_f1(curves: Curves, class_names: Sequence[str]) -> bytes:
    """F1 over the score that is asked for, of each class and their mean, at IoU 0.5."""
    named = [
        f"{name}  {f.max():.2f} at {STEPS[f.argmax()]:.2f}"
        for name, f in zip(plain_names(class_names), curves.f1, strict=True)
    ]
    best = f"mean  {curves.mean_f1.max():.2f} at {curves.best_score:.2f}"
    return _class_lines(
        curves.f1, named, curves.mean_f1, best, xlabel="score asked for", ylabel="F1", marked=curves.best_score
    )


def draw_confusion(matrix: Int64, class_names: Sequence[str]) -> bytes:
    """Rows what an object was, columns what it was taken for; colours are parts of each row, numbers are counts.

    Args:
        matrix: (K + 1, K + 1), background last.
    """
    names = [*plain_names(class_names), "background"]
    parts = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    parts[-1] = 0  # of the background no part can be given: nobody counts what is not there
    side = min(10.0, 3.2 + 0.55 * len(names))
    figure = make_figure(side + 0.8, side)
    axes = figure.subplots()
    shown = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    if len(class_names) <= _MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(matrix):
            colour = "white" if parts[row, column] > 0.55 else INK if count else GREY
            is_nowhere = row == column == len(class_names)
            axes.text(column, row, "" if is_nowhere else f"{count}", ha="center", va="center", fontsize=9, color=colour)
    ticks = range(len(names)) if len(names) <= _MOST_NAMES else []
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=45 if len(names) > 5 else 0)
    axes.set_yticks(ticks, [names[i] for i in ticks])
    axes.set(xlabel="taken for", ylabel="was")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="part of the row")
    return encode_png(figure)


def draw_labels(statistics: LabelStatistics, class_names: Sequence[str]) -> bytes:
    """Objects of each class, where their centres are, how large they are, of the training split."""
    figure = make_figure(10, 8.4)
    ((classes, places), (sizes, kinds)) = figure.subplots(2, 2)
    order = np.argsort(-statistics.class_counts, kind="stable")[:_MOST_BARS][::-1]
    names = plain_names(class_names)
    classes.barh([names[i] for i in order], statistics.class_counts[order], color=BLUE, height=0.7)
    for i, count in enumerate(statistics.class_counts[order]):
        classes.text(count, i, f" {count:,}", va="center", fontsize=9, color=INK)
    more = len(class_names) - len(order)
    classes.set(title="objects of each class" + (f" (and {more} rarer ones)" if more else ""))
    classes.margins(x=0.16)
    figure.colorbar(
        places.imshow(statistics.centres, cmap="viridis", extent=(0, 1, 1, 0), interpolation="nearest"), ax=places
    )
    places.set(title="centres, as parts of the picture", xlabel="x", ylabel="y")
    width, height = statistics.sides_px.T
    sizes.scatter(width, height, s=6, alpha=max(0.05, min(0.5, 400 / max(1, len(width)))), color=BLUE, lw=0)
    top = max(10.0, float(statistics.sides_px.max(initial=0)) * 1.04)
    sizes.plot([0, top], [0, top], color=GREY, lw=0.8, ls="--")
    sizes.set(title="size in the network input", xlabel="width, px", ylabel="height, px", xlim=(0, top), ylim=(0, top))
    kinds.bar(
        list(statistics.size_counts), list(statistics.size_counts.values()), color=[ORANGE, GREEN, BLUE], width=0.6
    )
    for i, count in enumerate(statistics.size_counts.values()):
        kinds.text(i, count, f"{count:,}", ha="center", va="bottom", fontsize=9, color=INK)
    kinds.margins(y=0.12)
    kinds.set(title="COCO's sizes: below 32 x 32 px, to 96 x 96, above")
    for axes in (classes, sizes, kinds):
        tidy_axes(axes)
    for axes in (classes, places, sizes, kinds):
        axes.title.set_fontsize(10)
    return encode_png(figure)


def _class_lines(
    values: Any,
    named: Sequence[str],
    mean: Any,
    mean_name: str,
    *,
    xlabel: str,
    ylabel: str,
    marked: float | None = None,
) -> bytes:
    """One line per class; with many classes they are grey and only their mean is named."""
    figure = make_figure(10, 4.6)
    axes = figure.subplots()
    known = [i for i in range(len(values)) if not np.isnan(values[i]).any()]
    is_few = len(known) <= _MOST_LINES
    for place, i in enumerate(known):
        colour = f"C{place}" if is_few else GREY
        axes.plot(STEPS, values[i], color=colour, lw=1.5 if is_few else 0.6, label=named[i] if is_few else None)
    axes.plot(STEPS, mean, color=INK, lw=2.6, label=mean_name)
    if marked is not None:
        axes.axvline(marked, color=INK, lw=1, ls="--")
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.02))
    tidy_axes(axes)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    return encode_png(figure)


def _mean_of_known(values: Any) -> Any:
    known = values[~np.isnan(values).any(1)]
    return known.mean(0) if len(known) else np.zeros(values.shape[1])


def _note(axes: Any, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), xytext=(-8, -16), textcoords="offset points", ha="right", fontsize=9, color=INK)
