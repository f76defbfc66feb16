"""The report of a training: `train.html`, one page that loads nothing from elsewhere, and its plots beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np

from edgeyolo.backends import Session
from edgeyolo.data.dataset import Dataset
from edgeyolo.evaluation.coco_map import detect_pictures, score_detections
from edgeyolo.evaluation.confusion import count_confusion
from edgeyolo.evaluation.curves import STEPS, Curves, measure_curves
from edgeyolo.evaluation.tasks.detection import make_detector
from edgeyolo.report import training_plots as plots
from edgeyolo.report.labels import LabelStatistics, count_labels
from edgeyolo.report.page import embed, fill_template
from edgeyolo.report.pairs import encode_jpeg
from edgeyolo.report.training_pictures import choose_pictures, draw_batches, draw_truth_and_found, judge
from edgeyolo.runtime.detector import Detector
from edgeyolo.runtime.draw import class_colour
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.detections import Detections, Int64
from edgeyolo.spec.errors import ImageError
from edgeyolo.spec.model import Score
from edgeyolo.spec.progress import SILENT, Progress

if TYPE_CHECKING:
    from edgeyolo.training.checkpoint import CheckpointRecord
    from edgeyolo.training.loader import Batch

PLOT_FOLDER = "plots"

_TEMPLATE = "training.html.j2"
_LEAST_SCORE = 0.05  # a model that has learned nothing is best at a score of 0, which shows thousands of boxes
_MOST_TILES = 16
_WORST, _OTHERS = 3, 3


@dataclass(frozen=True)
class ClassRow:
    """One class in numbers; None where it has no objects in validation.

    Attributes:
        train, val: objects.
        ap, ap50: percent.
        f1, score: the best F1, and the score it is reached at.
    """

    name: str
    colour: str
    train: int
    val: int
    ap: float | None
    ap50: float | None
    f1: float | None
    score: float | None


@dataclass(frozen=True)
class Findings:
    """What the best weights do on the validation split."""

    score: Score
    curves: Curves
    used_score: float
    everyday: dict[int, Detections]
    confusion: Int64


def write_training_report(
    out: Path,
    *,
    record: CheckpointRecord,
    session: Session,
    train_data: Dataset,
    val_data: Dataset,
    batches: Iterable[Batch],
    progress: Progress = SILENT,
) -> Path:
    """Write `train.html` and `plots/*.png` into the folder of a run; returns the page.

    Args:
        record: of the last checkpoint, whose history is that of the whole run.
        session: runs the best weights.
        batches: the first ones that the model was trained on; `first_batches` gives them.

    Raises:
        DataError: no validation pictures. OutputError: `out` cannot be written.
        MissingPackageError: jinja2, matplotlib or pycocotools is not installed.
    """
    names, input_hw = record.model.class_names, record.model.input.image_hw
    found = measure(session, record, val_data, progress=progress)
    labels = {data.split: count_labels(data, input_hw) for data in (train_data, val_data)}
    drawn = {
        "losses": plots.draw_losses(record.history),
        "ap": plots.draw_ap(record.history, record.best_epoch),
        "precision_recall": plots.draw_precision_recall(found.curves, names),
        "f1": plots.draw_f1(found.curves, names),
        "confusion": plots.draw_confusion(found.confusion, names),
        "labels": plots.draw_labels(labels[train_data.split], names),
        "batches": _batches_png(batches),
    }
    pictures = _draw_pictures(found, val_data)
    page = fill_template(
        _TEMPLATE,
        needed_for="train.html",
        record=record,
        config=_flat(msgspec.to_builtins(record.config)),
        score=found.score,
        used_score=found.used_score,
        headline=_headline(record, found.score),
        seconds=sum(row.seconds for row in record.history),
        classes=_class_rows(names, labels[train_data.split], labels[val_data.split], found),
        labels=labels,
        plots={name: embed(png) for name, png in drawn.items()},
        pictures=[(caption, embed(jpeg)) for caption, jpeg in pictures],
    )
    for name, png in drawn.items():
        write_file(out / PLOT_FOLDER / f"{name}.png", png)
    for i, (_, jpeg) in enumerate(pictures, start=1):
        write_file(out / PLOT_FOLDER / f"found_{i}.jpg", jpeg)
    write_file(out / "train.html", page.encode())
    return out / "train.html"


def first_batches(record: CheckpointRecord, data: Dataset, count: int = _MOST_TILES) -> list[Batch]:
    """The first batches of a run, made again: enough for `count` pictures.

    Raises:
        DataError: no picture can be read.
    """
    from edgeyolo.training.loader import augmentation_of, make_loader
    from edgeyolo.training.order import make_order

    config = record.config
    order = make_order(config, record.model, data)
    loader = make_loader(data, order, input_spec=record.model.input, augment=augmentation_of(config, data), cache_mib=0)
    loader.start_epoch(0, mosaic=config.last_mosaic_epoch > 0)
    batches: list[Batch] = []
    for batch in loader:
        batches.append(batch)
        if sum(len(b.images) for b in batches) >= count:
            break
    return batches


def measure(session: Session, record: CheckpointRecord, data: Dataset, *, progress: Progress = SILENT) -> Findings:
    """Detect in every picture of a split twice: as mAP wants it, and as a user would see it at the score of best F1."""
    everything = make_detector(session, record.model, data)
    pictures = range(len(data))
    detections = detect_pictures(everything.detect_batch, data, pictures, progress=progress)
    curves = measure_curves(detections, data)
    used_score = max(_LEAST_SCORE, curves.best_score)
    everyday = detect_pictures(
        Detector(session, record.model, Thresholds(score_threshold=used_score)).detect_batch,
        data,
        pictures,
        progress=progress,
    )
    num_classes = len(data.class_names)
    confusion = sum(
        (count_confusion(seen, data.records[i], num_classes) for i, seen in everyday.items()),
        start=np.zeros((num_classes + 1, num_classes + 1), np.int64),
    )
    score = score_detections(detections, data, artefact="float torch")
    return Findings(score, curves, used_score, everyday, confusion)


def _draw_pictures(found: Findings, data: Dataset) -> list[tuple[str, bytes]]:
    outcomes = [judge(i, seen, data.records[i]) for i, seen in found.everyday.items()]
    drawn = []
    for outcome in choose_pictures(outcomes, worst=_WORST, others=_OTHERS):
        sample, record = data[outcome.index], data.records[outcome.index]
        pair = draw_truth_and_found(sample.image, record, found.everyday[outcome.index], data.class_names)
        drawn.append((f"{record.image_id}: {outcome.caption}", encode_jpeg(pair, where=record.image_id)))
    return drawn


def _batches_png(batches: Iterable[Batch]) -> bytes:
    images, targets = [], []
    for batch in batches:
        rows = batch.targets.numpy()
        for i, planes in enumerate(batch.images.numpy()):
            images.append(np.ascontiguousarray(planes[::-1].transpose(1, 2, 0)))
            mine = rows[rows[:, 0] == i]
            targets.append((mine[:, 2:], mine[:, 1].astype(np.int64)))
    is_done, buffer = cv2.imencode(".png", draw_batches(images[:_MOST_TILES], targets[:_MOST_TILES]))
    if not is_done:
        raise ImageError("cannot be encoded as PNG", where="training batches")
    return buffer.tobytes()


def _headline(record: CheckpointRecord, score: Score) -> str:
    return (
        f"AP {score.ap:.2f}, AP50 {score.ap50:.2f} on {score.images} pictures of {score.data} ({score.split}), "
        f"best of {record.epoch} epochs: number {record.best_epoch}."
    )


def _class_rows(names: Sequence[str], train: LabelStatistics, val: LabelStatistics, found: Findings) -> list[ClassRow]:
    rows = []
    for i, name in enumerate(names):
        ap, f1, precision = found.score.per_class.get(name, -1.0), found.curves.f1[i], found.curves.precision[i]
        is_known = not np.isnan(f1).any()
        rows.append(
            ClassRow(
                name=name,
                colour="#{2:02x}{1:02x}{0:02x}".format(*class_colour(i)),
                train=int(train.class_counts[i]),
                val=int(val.class_counts[i]),
                ap=ap if ap >= 0 else None,
                ap50=100 * float(precision.mean()) if is_known else None,
                f1=float(f1.max()) if is_known else None,
                score=float(STEPS[f1.argmax()]) if is_known else None,
            )
        )
    return rows


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    """{"augment": {"mosaic": 1}} -> {"augment.mosaic": 1}."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
