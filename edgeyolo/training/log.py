"""The log of a run: `log.csv` and a picture of its curves, `curves.png`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from edgeyolo.spec.atomic import replacing_file, write_file
from edgeyolo.training.checkpoint import EpochRow


def write_log(folder: Path, history: Sequence[EpochRow]) -> None:
    """Write both files from the whole history, so that a resumed run has no gap.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_file(folder / "log.csv", csv_text(history).encode())
    draw_curves(folder / "curves.png", history)


def csv_text(history: Sequence[EpochRow]) -> str:
    """One line per epoch; an AP that was not measured is empty."""
    parts = list(history[-1].losses)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *(f"loss_{part}" for part in parts), "learning_rate", "ap", "ap50", "seconds"])
    for row in history:
        scores = ["" if value is None else f"{value:.3f}" for value in (row.ap, row.ap50)]
        losses = [f"{row.losses[part]:.6g}" for part in parts]
        writer.writerow([row.epoch, *losses, f"{row.learning_rate:.6g}", *scores, row.seconds])
    return text.getvalue()


def draw_curves(path: Path, history: Sequence[EpochRow]) -> None:
    """Loss parts on the left, AP and AP50 on the right; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, ap_axes = figure.subplots(1, 2)
    epochs = [row.epoch for row in history]
    for part in history[-1].losses:
        loss_axes.plot(epochs, [row.losses[part] for row in history], label=part)
    loss_axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    measured = [row for row in history if row.ap is not None]
    for name in ("ap", "ap50"):
        ap_axes.plot([row.epoch for row in measured], [getattr(row, name) for row in measured], label=name.upper())
    ap_axes.set(xlabel="epoch", ylabel="percent", ylim=(0, 100))
    for axes in (loss_axes, ap_axes):
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend()
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
