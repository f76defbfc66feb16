from __future__ import annotations

import csv
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from fresh_run import plain_loader, start_detector
from torch import Tensor

from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.errors import CheckpointError, TrainingError, UsageError
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training import TrainResult, train
from edgeyolo.training.checkpoint import load_checkpoint, read_record, read_tensors
from edgeyolo.training.step import train_step

CONFIG = TrainConfig(
    model="yolov7-nano",
    epochs=4,
    image_size=64,
    batch=4,
    workers=0,
    precision="fp32",
    device="cpu",
    close_mosaic_epochs=0,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 12, "val": 4, "test": 2}, seed=1)
    return folder


def run(config: TrainConfig, data: Path, out: Path, **settings: object) -> TrainResult:
    return train(config, (open_dataset(data, "train"), open_dataset(data, "val")), out, **settings)


def assert_same_tensors(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name


def test_a_run_writes_checkpoints_and_a_log(data: Path, tmp_path: Path) -> None:
    result = run(CONFIG, data, tmp_path / "run")
    assert result.epochs == 4
    assert result.score is not None and result.score.images == 4
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["loss_box"]) < float(rows[0]["loss_box"])
    assert load_checkpoint(result.best).record.score == result.score
    with pytest.raises(UsageError, match="Add --resume"):
        run(CONFIG, data, tmp_path / "run")


def test_the_same_seed_gives_the_same_losses_and_another_does_not(data: Path, tmp_path: Path) -> None:
    def losses(name: str, seed: int) -> list[dict[str, float]]:
        result = run(msgspec.structs.replace(CONFIG, epochs=2, seed=seed), data, tmp_path / name)
        return [row.losses for row in read_tensors(result.last)[1].history]

    assert losses("a", 0) == losses("b", 0) != losses("c", 1)


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    class Interrupt:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            if stage.startswith("epoch 3"):
                raise KeyboardInterrupt

    whole = run(CONFIG, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, data, tmp_path / "parts", progress=Interrupt())
    parts = run(CONFIG, data, tmp_path / "parts", resume=True)
    assert parts.epochs == whole.epochs
    assert_same_tensors(*(read_tensors(result.last)[0] for result in (parts, whole)))


def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = ["train", "--model", "yolov7-nano", "--data", str(data), "--out", str(out), "--epochs", "6"]
    command += ["--image-size", "64", "--batch", "4", "--workers", "0", "--device", "cpu", "--no-report"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeyolo", *command], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (out / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 1 <= read_record(out / "last.safetensors").epoch < 6
    config = TrainConfig(model="yolov7-nano", epochs=6, image_size=64, batch=4, workers=0, device="cpu")
    parts, whole = run(config, data, out, resume=True), run(config, data, tmp_path / "whole")
    for mine, theirs in ((parts.last, whole.last), (parts.best, whole.best)):
        assert_same_tensors(read_tensors(mine)[0], read_tensors(theirs)[0])


def test_patience_stops_a_run_that_does_not_improve(data: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, epochs=10, patience=1, learning_rate=1e-12)
    assert run(config, data, tmp_path / "run").epochs < 10


def test_resume_needs_a_run_of_the_same_classes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run(CONFIG, data, tmp_path / "none", resume=True)
    run(msgspec.structs.replace(CONFIG, epochs=1), data, tmp_path / "run")
    train_data, val_data = (open_dataset(data, split) for split in ("train", "val"))
    renamed = replace(train_data, class_names=("other", *train_data.class_names[1:]))
    with pytest.raises(CheckpointError, match="started on other classes"):
        train(CONFIG, (renamed, val_data), tmp_path / "run", resume=True)


def test_a_loss_that_is_not_a_number_stops_and_names_the_pictures(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data, "train")
    state = start_detector(CONFIG, dataset, tmp_path)
    with torch.no_grad():
        next(state.model.parameters()).fill_(float("nan"))
    batch = next(iter(plain_loader(dataset, 2)))
    with pytest.raises(TrainingError, match=batch.image_ids[0]):
        train_step(state, batch)
