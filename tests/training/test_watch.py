"""A GPU is not waited for at each step, and yet a number that is not finite harms nothing and is named.

The GPU is the processor, called one; its events tell which steps were waited for, and when.
"""

from __future__ import annotations

import os
import signal
from itertools import count
from pathlib import Path

import msgspec
import pytest
import torch
from fresh_run import plain_loader, start_detector
from torch import Tensor, nn

from edgeyolo.criteria.criterion import Loss
from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.errors import TrainingError
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training import train
from edgeyolo.training.checkpoint import read_tensors
from edgeyolo.training.detector import DetectorJob
from edgeyolo.training.loader import Batch
from edgeyolo.training.run import Run
from edgeyolo.training.step import check_numbers, normalise, train_step
from edgeyolo.training.watch import LAG, Watch

STEPS, BAD = 8, 2  # steps, and the one among them, counted from 0, that goes wrong


class Gpu(str):
    """The processor, called a GPU."""

    type = "cuda"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each wait for a step the step's number, and how many steps there were by then."""
    found: list[tuple[int, int]] = []
    recorded: list[object] = []

    class Event:
        def record(self) -> None:
            recorded.append(self)

        def synchronize(self) -> None:
            found.append((recorded.index(self), len(recorded)))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr("edgeyolo.training.run.Watch", lambda device: Watch(Gpu("cpu")))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 2 * STEPS, "val": 3}, seed=1)
    return open_dataset(folder, "train")


CONFIG = TrainConfig(
    model="yolov7-nano",
    image_size=64,
    epochs=2,
    batch=2,
    workers=0,
    precision="fp32",
    device="cpu",
    close_mosaic_epochs=0,
)


def fresh(data: Dataset, out: Path, **change: object) -> tuple[Run, list[Batch]]:
    state = start_detector(msgspec.structs.replace(CONFIG, **change), data, out)
    state.start_training()
    return state, list(plain_loader(data, 2))


def weights_of(state: Run) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in state.model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_layer_and_the_pictures_are_named_some_steps_later(
    optimizer: str, data: Dataset, tmp_path: Path, waits: list[tuple[int, int]]
) -> None:
    state, batches = fresh(data, tmp_path, optimizer=optimizer)
    layers = [name for name, m in state.model.named_modules() if isinstance(m, nn.Conv2d)]
    broken = layers[len(layers) // 2]
    before: dict[str, Tensor] = {}
    with pytest.raises(TrainingError, match=f"layer {broken}") as caught:
        for number, batch in enumerate(batches):
            if number == BAD:
                with torch.no_grad():
                    state.model.get_submodule(broken).weight[0] = float("inf")
                before = weights_of(state)
            train_step(state, batch)
    assert caught.value.where == ", ".join(batches[BAD].image_ids)
    assert number == BAD + LAG < STEPS - 1
    assert waits == [(seen, seen + LAG + 1) for seen in range(BAD + 1)]
    assert all(torch.equal(p, before[name]) for name, p in state.model.named_parameters())


@pytest.mark.usefixtures("waits")
def test_gradients_of_one_batch_that_are_not_numbers_are_found_again(data: Dataset, tmp_path: Path) -> None:
    state, batches = fresh(data, tmp_path)
    name, last = list(state.model.named_parameters())[-1]
    now: list[Tensor] = []
    state.model.register_forward_pre_hook(lambda module, given: now.__setitem__(slice(None), given))
    last.register_hook(lambda grad: grad * float("nan") if torch.equal(now[0], bad) else grad)
    bad = torch.empty(0)
    with pytest.raises(TrainingError, match=f"gradients are not finite.*{name}") as caught:
        for number, batch in enumerate(batches):
            if number == BAD:
                bad, before = normalise(batch.images, state.job.spec.input), weights_of(state)
                assert not torch.equal(bad, now[0])
            train_step(state, batch)
    assert caught.value.where == ", ".join(batches[BAD].image_ids) and number == BAD + LAG
    assert all(torch.equal(p, before[name]) for name, p in state.model.named_parameters())


@pytest.mark.usefixtures("waits")
def test_looking_later_trains_to_the_same_bits(data: Dataset, tmp_path: Path) -> None:
    found = []
    for watch in (Watch(torch.device("cpu")), Watch(Gpu("cpu"))):
        state, batches = fresh(data, tmp_path)
        state.watch = watch
        for batch in batches[:3]:
            train_step(state, batch)
        check_numbers(state)
        found.append(weights_of(state))
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("is_stopped", [False, True], ids=["at the end of an epoch", "when it is stopped"])
def test_nothing_is_saved_before_all_steps_were_looked_at(
    is_stopped: bool, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, calls = DetectorJob.loss, count()

    def loss(job: DetectorJob, outputs: list[Tensor], targets: Tensor, images: Tensor) -> Loss:
        found = own(job, outputs, targets, images)
        if next(calls) == 2 * STEPS - 1:  # the last one of the second epoch
            if is_stopped:
                os.kill(os.getpid(), signal.SIGTERM)
            return Loss(found.total * float("nan"), found.parts)
        return found

    monkeypatch.setattr(DetectorJob, "loss", loss)
    val = open_dataset(Path(data.records[0].image_path).parents[2], "val")
    with pytest.raises(TrainingError, match="the loss is nan in epoch 2; every layer is finite"):
        train(CONFIG, (data, val), tmp_path / "run")
    tensors, record = read_tensors(tmp_path / "run" / "last.safetensors")
    assert record.epoch == 1 and record.step == 0
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
