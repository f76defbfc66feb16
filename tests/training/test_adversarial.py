"""Self-adversarial training: pictures move against the network, by little, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from fresh_run import plain_loader, start_detector
from torch import nn

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.adversarial import LEVELS, deceive
from edgeyolo.training.run import Run
from edgeyolo.training.step import normalise, train_step

CONFIG = TrainConfig(
    model="yolov7-nano", epochs=2, image_size=64, precision="fp32", batch=4, workers=0, adversarial=1.0
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 4}, seed=1)
    return open_dataset(folder, "train")


def start(data: Dataset, folder: Path, **changes: object) -> tuple[Run, torch.Tensor]:
    run = start_detector(msgspec.structs.replace(CONFIG, **changes), data, folder)
    run.start_training()
    run.job.start_epoch(0)
    return run, normalise(next(iter(plain_loader(data, 4))).images, run.job.spec.input)


def seen(run: Run, images: torch.Tensor) -> float:
    """The loss of pictures without objects, by the batch's statistics."""
    with torch.no_grad():
        return float(run.job.loss_of_nothing(run.network(images), images))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_pictures_move_by_little_and_the_network_stays(data: Dataset, tmp_path: Path, accumulate: int) -> None:
    run, images = start(data, tmp_path, accumulate=accumulate)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    moved = deceive(run, images)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert all(m.track_running_stats for m in run.model.modules() if isinstance(m, nn.BatchNorm2d))
    levels = (moved - images).abs() * 255
    assert levels.max() == pytest.approx(LEVELS, rel=1e-3) and moved.min() >= 0 and moved.max() <= 1


def test_a_small_step_hides_what_a_random_one_does_not(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64: of a network that is not trained yet, all is lost in rounding."""
    monkeypatch.setattr("edgeyolo.training.adversarial.LEVELS", 0.01)
    run, images = start(data, tmp_path)
    run.network.double()
    images = images.double()
    moved = deceive(run, images)
    other = images + (moved - images)[torch.randperm(4)].flip(3)
    falls = [seen(run, images) - seen(run, changed) for changed in (moved, other)]
    assert falls[0] > 3 * abs(falls[1])


def test_some_pictures_are_chosen_and_none_where_it_is_off(data: Dataset, tmp_path: Path) -> None:
    run, images = start(data, tmp_path / "some", adversarial=0.5)
    torch.manual_seed(0)
    chosen = torch.rand(4) < 0.5
    torch.manual_seed(0)
    moved = deceive(run, images)
    assert (moved != images).flatten(1).any(dim=1).tolist() == chosen.tolist()
    assert 0 < chosen.sum() < 4
    run, images = start(data, tmp_path / "none", adversarial=0.0)
    assert deceive(run, images) is images


def test_a_step_learns_from_what_was_changed(data: Dataset, tmp_path: Path) -> None:
    losses = []
    for share in (0.0, 1.0):
        run, _ = start(data, tmp_path / str(share), adversarial=share)
        losses.append(float(train_step(run, next(iter(plain_loader(data, 4))))["total"]))
    assert losses[0] != losses[1]
