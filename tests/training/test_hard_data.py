"""Data that nobody wishes for: a run trains on it, or says what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from edgeyolo.data.dataset import Dataset, Record, make_report, open_dataset
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import DataError, UsageError
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training import train
from edgeyolo.training.checkpoint import read_tensors
from edgeyolo.training.detector import make_detector_job
from edgeyolo.training.order import make_order

CONFIG = TrainConfig(model="yolov7-nano", epochs=1, image_size=64, batch=2, workers=0, precision="fp32", device="cpu")
CLASSES = ("cell", "rare")


def draw(folder: Path, sizes_hw: Sequence[tuple[int, int]], class_ids: Sequence[Sequence[int]]) -> Dataset:
    """Pictures of noise with one box for each class id, in their middle."""
    rng = np.random.default_rng(0)
    records = []
    for i, (hw, ids) in enumerate(zip(sizes_hw, class_ids, strict=True)):
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (*hw, 3), np.uint8))
        box = np.array([hw[1] / 4, hw[0] / 4, hw[1] * 3 / 4, hw[0] * 3 / 4], np.float32)
        boxes = np.tile(box, (len(ids), 1)).reshape(-1, 4)
        records.append(Record(path, f"id{i}", hw, boxes, np.array(ids, np.int64)))
    return Dataset("hard", "train", CLASSES, records, make_report("hard", "train", CLASSES, records, ProblemLog()))


def losses_of(data: Dataset, out: Path, **change: object) -> dict[str, float]:
    """Of the last epoch of a run, which must be finite."""
    result = train(msgspec.structs.replace(CONFIG, **change), (data, data), out)
    losses = read_tensors(result.last)[1].history[-1].losses
    assert all(np.isfinite(value) for value in losses.values())
    return losses


@pytest.mark.parametrize("model", ["yolov7-nano", "ppyoloe-s"])
def test_pictures_without_any_object_teach_the_background(model: str, tmp_path: Path) -> None:
    data = draw(tmp_path, [(50, 60)] * 3, [[]] * 3)
    losses = losses_of(data, tmp_path / "run", model=model)
    assert losses["total"] > 0
    assert losses.get("box", losses.get("iou")) == 0


def test_a_split_without_objects_is_explained_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images" / "train" / "a.png"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "labels" / "train" / "a.txt").write_text("")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nnames: [cell]\n")
    with pytest.raises(DataError, match="no usable object"):
        open_dataset(tmp_path, "train")


def test_one_picture_is_enough(tmp_path: Path) -> None:
    data = draw(tmp_path, [(50, 60)], [[0]])
    losses_of(data, tmp_path / "run", batch=8)


@pytest.mark.parametrize("model", ["yolov7-nano", "ppyoloe-s"])
def test_one_picture_of_one_cell_is_explained(model: str, tmp_path: Path) -> None:
    data = draw(tmp_path, [(30, 32)] * 2, [[0]] * 2)
    with pytest.raises(UsageError, match=r"batch of 1 at 32 x 32 .* Take a larger image_size"):
        losses_of(data, tmp_path / "run", model=model, batch=1, image_size=32)
    losses_of(data, tmp_path / "two", model=model, batch=2, image_size=32)


def test_pictures_of_every_size(tmp_path: Path) -> None:
    sizes_hw = [(8, 8), (3000, 4000), (1, 3000), (3000, 1), (50, 60), (1, 1)]
    data = draw(tmp_path, sizes_hw, [[0], [0, 1], [1], [0], [1], [0]])
    losses_of(data, tmp_path / "run", multi_scale=0.5, image_size="64x96")


def test_a_picture_that_breaks_between_epochs_is_named_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = draw(tmp_path, [(50, 60)] * 6, [[0]] * 6)

    class Break:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            if stage == "epoch 1/2" and done == 1:
                for record in data.records[:3]:
                    record.image_path.write_bytes(record.image_path.read_bytes()[:60])

    val = replace(data, records=data.records[3:])
    with caplog.at_level(logging.WARNING):
        train(msgspec.structs.replace(CONFIG, epochs=2, cache_mib=0), (data, val), tmp_path / "run", progress=Break())
    named = {i for i in range(6) for record in caplog.records if f"/{i}.png" in record.getMessage()}
    assert named == {0, 1, 2}


def test_one_object_in_ten_thousand(tmp_path: Path) -> None:
    """Drawn data of the real proportion would take minutes: the order is that of all, the run that of a few."""
    data = draw(tmp_path, [(40, 40)] * 4, [[0], [0], [0], [0, 1]])
    many = replace(data, records=[*[data.records[0]] * 9_999, data.records[3]])
    config = msgspec.structs.replace(CONFIG, class_balance=0.01)
    job = make_detector_job(config, many, torch.device("cpu"))
    seen = [key.picture for keys in make_order(config, job.spec, many) for key in keys]
    assert seen.count(9_999) == 10
    losses_of(data, tmp_path / "run", class_balance=0.5)


def test_an_unreadable_validation_picture_costs_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = draw(tmp_path, [(40, 40)] * 6, [[0]] * 6)
    val = replace(data, records=data.records[3:])
    path = val.records[1].image_path
    path.write_bytes(path.read_bytes()[:60])
    with caplog.at_level(logging.WARNING):
        result = train(CONFIG, (replace(data, records=data.records[:3]), val), tmp_path / "run")
    assert result.score is not None and result.score.images == 2 and result.epochs == 1
    assert path.name in caplog.text


def test_an_epoch_is_saved_before_it_is_measured(tmp_path: Path) -> None:
    data = draw(tmp_path, [(40, 40)] * 4, [[0]] * 4)

    class Fail:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            if stage == "evaluate":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, (data, data), tmp_path / "run", progress=Fail())
    record = read_tensors(tmp_path / "run" / "last.safetensors")[1]
    assert (record.epoch, record.step) == (0, 2)
    assert train(CONFIG, (data, data), tmp_path / "run", resume=True).epochs == 1
