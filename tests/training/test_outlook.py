from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest
import torch

from edgeyolo import verbs
from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.detector import make_detector_job
from edgeyolo.training.outlook import Outlook, outlook_of

CONFIG = TrainConfig(model="yolov7-nano", epochs=1, image_size=64, batch=4, workers=0, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 9, "val": 4}, seed=1)
    return folder


def test_steps_are_those_of_the_run(data: Path) -> None:
    split = open_dataset(data, "train")
    objects = sum(len(record.class_ids) for record in split.records)
    assert outlook_of(CONFIG, split) == Outlook(pictures=9, objects=objects, epochs=1, steps=2)
    assert outlook_of(msgspec.structs.replace(CONFIG, batch=16, epochs=7), split).steps == 7


def test_too_few_steps_come_with_the_epochs_that_make_enough() -> None:
    little = Outlook(pictures=130, objects=130, epochs=60, steps=480)
    assert little.is_little and "--epochs 125" in little.expectation()
    assert "130 pictures with 1.0 objects each, 480 steps in 60 epochs" in little.expectation()
    enough = Outlook(pictures=5000, objects=40000, epochs=10, steps=6250)
    assert not enough.is_little and "--epochs" not in enough.expectation()


def test_a_training_from_little_says_so_before_and_what_would_help_after(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="edgeyolo.verbs"):
        verbs.train(CONFIG, data, tmp_path / "run", report=False)
    before, after = [record.message for record in caplog.records if record.name == "edgeyolo.verbs._train"]
    assert before.startswith("there is little to learn from: 9 pictures")
    assert "pictures" in after and "--weights" in after and "--teacher" in after


def test_the_loss_is_told_how_many_objects_there_are(data: Path) -> None:
    split = open_dataset(data, "train")
    objects = sum(len(record.class_ids) for record in split.records)
    criterion = make_detector_job(CONFIG, split, torch.device("cpu")).criterion
    assert criterion.rarity == pytest.approx(max(1.0, 7.3 * 9 / objects)) != 1.0
