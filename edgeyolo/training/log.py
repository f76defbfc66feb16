"""What a run tells: a line while it goes on, `log.csv`, and TensorBoard where asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from edgeyolo.spec.errors import MissingPackageError, OutputError
from edgeyolo.training.checkpoint import EpochRow


def progress_text(
    losses: Mapping[str, float], *, best_ap: float, pictures_per_second: float, seconds_left: float
) -> str:
    """The latest figures for people, such as "loss 0.112 (box 0.05, objectness 0.06)  best AP 51.2  41 pictures/s".

    Args:
        losses: mean of each part so far, and `total`.
        best_ap: percent, below 0 if none was measured.
        seconds_left: to the end of the run, evaluations included; 0 where it is not known yet.
    """
    parts = ", ".join(f"{name} {value:.3g}" for name, value in losses.items() if name != "total")
    texts = [f"loss {losses['total']:.4g}" + (f" ({parts})" if parts else "")]
    if best_ap >= 0:
        texts.append(f"best AP {best_ap:.1f}")
    texts.append(f"{pictures_per_second:.{1 if pictures_per_second < 100 else 0}f} pictures/s")
    if seconds_left > 0:
        minutes, seconds = divmod(round(seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        texts.append(f"{hours} h {minutes:02d} min left" if hours else f"{minutes}:{seconds:02d} left")
    return "  ".join(texts)


class TensorBoardLog:
    """Rows of a history as TensorBoard scalars in a folder; a `with` block closes it.

    Args:
        done: epochs there are already; what an interrupted run wrote after them is put aside by TensorBoard.

    Raises:
        MissingPackageError: tensorboard is not installed. OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, done: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            install = "pip install 'edgeyolo[tensorboard]'"
            raise MissingPackageError("tensorboard", needed_for="a TensorBoard log", install=install) from None
        try:
            self._writer = SummaryWriter(str(folder), purge_step=done + 1)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", where=folder) from None

    def add(self, history: Sequence[EpochRow]) -> None:
        """Write the last epoch."""
        row = history[-1]
        values = {f"loss/{part}": value for part, value in row.losses.items()}
        values |= {"learning_rate": row.learning_rate, "seconds": row.seconds}
        values |= {f"val/{name}": value for name in ("ap", "ap50") if (value := getattr(row, name)) is not None}
        for name, value in values.items():
            self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def csv_text(history: Sequence[EpochRow]) -> str:
    """One line per epoch; an AP that was not measured is empty, and so is a loss that a teacher who left has added."""
    parts = list(dict.fromkeys(part for row in history for part in row.losses))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *(f"loss_{part}" for part in parts), "learning_rate", "ap", "ap50", "seconds"])
    for row in history:
        scores = ["" if value is None else f"{value:.3f}" for value in (row.ap, row.ap50)]
        losses = [f"{row.losses[part]:.6g}" if part in row.losses else "" for part in parts]
        writer.writerow([row.epoch, *losses, f"{row.learning_rate:.6g}", *scores, row.seconds])
    return text.getvalue()
