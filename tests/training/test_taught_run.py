"""Whole runs with a teacher, with anchors of their own, and with a TensorBoard log."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from edgeyolo import models
from edgeyolo.data.dataset import Dataset, Record, make_report, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.spec.training import DistillConfig, TrainConfig
from edgeyolo.training import train
from edgeyolo.training.checkpoint import load_checkpoint, read_tensors

CONFIG = TrainConfig(
    model="yolov7-nano",
    epochs=2,
    image_size=64,
    batch=4,
    workers=0,
    precision="fp32",
    device="cpu",
    close_mosaic_epochs=0,
    evaluate_every=2,
    cache_mib=16,
)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 8, "val": 2, "test": 1}, image_hw=(64, 64), seed=1)
    return open_dataset(folder, "train"), open_dataset(folder, "val")


@pytest.fixture(scope="module")
def teacher(splits: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    train(msgspec.structs.replace(CONFIG, model="yolov7-tiny", epochs=1, seed=5), splits, out)
    return out


class Interrupt:
    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        assert "pictures/s" in text or not stage.startswith("epoch")
        if stage.startswith("epoch 2"):
            raise KeyboardInterrupt


def test_a_run_with_a_teacher_is_resumed_exactly(
    splits: tuple[Dataset, Dataset], teacher: Path, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(CONFIG, teacher=str(teacher))
    whole = train(config, splits, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, splits, tmp_path / "parts", progress=Interrupt())
    parts = train(config, splits, tmp_path / "parts", resume=True)
    (mine, record), (theirs, _) = read_tensors(whole.last), read_tensors(parts.last)
    assert mine.keys() == theirs.keys() and any(name.startswith("distiller.adapters.") for name in mine)
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name
    losses = record.history[-1].losses
    assert {"distill_feature", "distill_score", "distill_class", "distill_box"} <= set(losses)
    assert losses["total"] == pytest.approx(sum(v for k, v in losses.items() if k != "total"), rel=1e-4)
    assert not any(name.startswith(("distiller.", "trained.")) for name in read_tensors(whole.best)[0])


def test_a_teacher_leaves_with_the_mosaics(splits: tuple[Dataset, Dataset], teacher: Path, tmp_path: Path) -> None:
    distill = DistillConfig(feature=0.5, head=0.0, align=True, dynamic_temperature=True, two_stages=True)
    config = msgspec.structs.replace(CONFIG, model="damo-ns", epochs=6, evaluate_every=6, close_mosaic_epochs=1)
    config = msgspec.structs.replace(config, teacher=str(teacher), distill=distill)
    result = train(config, splits, tmp_path / "run")
    history = read_tensors(result.last)[1].history
    assert ["distill_feature" in row.losses for row in history] == [True] * 5 + [False]
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert float(rows[4]["loss_distill_feature"]) > 0 and rows[5]["loss_distill_feature"] == ""


def test_parts_of_a_batch_are_taught_as_the_whole(
    splits: tuple[Dataset, Dataset], teacher: Path, tmp_path: Path
) -> None:
    """Batch normalisation is frozen, so that it does not see the parts."""
    losses = []
    for accumulate in (1, 2):
        config = msgspec.structs.replace(
            CONFIG, epochs=1, teacher=str(teacher), accumulate=accumulate, freeze=("backbone", "neck")
        )
        result = train(config, splits, tmp_path / str(accumulate))
        losses.append(read_tensors(result.last)[1].history[0].losses)
    assert losses[0]["distill_feature"] == pytest.approx(losses[1]["distill_feature"], rel=1e-3)


def test_the_auxiliary_branch_trains_and_does_not_ship(splits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    names = {}
    for auxiliary in (True, False):
        config = msgspec.structs.replace(CONFIG, model="yolov6n", epochs=1, auxiliary=auxiliary)
        result = train(config, splits, tmp_path / str(auxiliary))
        losses = read_tensors(result.last)[1].history[0].losses
        assert (
            {"auxiliary_class", "auxiliary_iou"} <= set(losses)
            if auxiliary
            else set(losses) == {"class", "iou", "total"}
        )
        names[auxiliary] = [name for name in read_tensors(result.last)[0] if name.startswith("auxiliary.")]
        assert not any("auxiliary" in name for name in read_tensors(result.best)[0])
    assert len(names[True]) == 12 and not names[False]


def test_a_teacher_that_is_not_there(splits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        train(msgspec.structs.replace(CONFIG, teacher=str(tmp_path / "none")), splits, tmp_path / "run")


def flat_objects(folder: Path) -> Dataset:
    """Pictures with objects twenty times as wide as high."""
    records = []
    for i in range(16):
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), np.full((64, 64, 3), 8 * i, np.uint8))
        box = np.array([[1, 10 + i, 61, 13 + i]], np.float32)
        records.append(Record(path, str(i), (64, 64), box, np.zeros(1, np.int64)))
    return Dataset("flat", "train", ("a",), records, make_report("flat", "train", ("a",), records, ProblemLog()))


def test_anchors_are_fitted_saved_and_kept(tmp_path: Path) -> None:
    data = flat_objects(tmp_path)
    own = models.anchors_of("yolov7-nano")
    first = train(msgspec.structs.replace(CONFIG, epochs=1), (data, data), tmp_path / "run")
    fitted = load_checkpoint(first.best).model.decode.anchors_wh
    assert fitted != own
    record = read_tensors(first.last)[1]
    more = msgspec.structs.replace(record, config=msgspec.structs.replace(record.config, epochs=2))
    assert models.anchors_in(more.model) == fitted
    kept = train(msgspec.structs.replace(CONFIG, epochs=1, auto_anchor=False), (data, data), tmp_path / "kept")
    assert load_checkpoint(kept.best).model.decode.anchors_wh == own
    tuned = train(
        msgspec.structs.replace(CONFIG, epochs=1, auto_anchor=False),
        (data, data),
        tmp_path / "tuned",
        weights=first.best,
    )
    assert load_checkpoint(tuned.best).model.decode.anchors_wh == fitted  # weights belong to their anchors
    resumed = train(CONFIG, (data, data), tmp_path / "run", resume=True)
    assert load_checkpoint(resumed.last).model.decode.anchors_wh == fitted


def test_a_tensorboard_log_is_written(splits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(msgspec.structs.replace(CONFIG, tensorboard=True), splits, tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss/total")] == [1, 2]
    assert [e.step for e in events.Scalars("val/ap")] == [2]
