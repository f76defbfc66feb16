"""What stops a run leaves one that can be resumed, and a message that says what to do."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from fresh_run import plain_loader, start_detector
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.errors import OutputError, StoppedError, TrainingError, UnknownNameError, UsageError
from edgeyolo.spec.training import DropBlockConfig, TrainConfig
from edgeyolo.training import TrainResult, train
from edgeyolo.training.batch_size import find_batch, free_bytes, largest_fitting
from edgeyolo.training.checkpoint import read_record, read_tensors
from edgeyolo.training.distributed import World
from edgeyolo.training.loader import Batch
from edgeyolo.training.run import Run
from edgeyolo.training.step import backward, normalise, train_step

CONFIG = TrainConfig(
    model="yolov7-nano",
    epochs=3,
    image_size=64,
    batch=4,
    workers=0,
    precision="fp32",
    device="cpu",
    close_mosaic_epochs=0,
)
EVERYTHING = {
    "accumulate": 2,
    "class_balance": 0.5,
    "cross_batch_norm": True,
    "drop_block": DropBlockConfig(probability=0.3, size=3),
    "multi_scale": 0.5,
    "optimizer": "sgd",
    "warmup_momentum": 0.5,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 13, "val": 6, "test": 2}, seed=1)
    return folder


def run(config: TrainConfig, data: Path, out: Path, **settings: object) -> TrainResult:
    return train(config, (open_dataset(data, "train"), open_dataset(data, "val")), out, **settings)


def fresh(data: Path, out: Path, **change: object) -> tuple[Run, Batch]:
    """A run before its first step, and a batch."""
    dataset = open_dataset(data, "train")
    state = start_detector(msgspec.structs.replace(CONFIG, **change), dataset, out)
    state.start_training()
    return state, next(iter(plain_loader(dataset, state.config.batch)))


class Signal:
    """A progress that sends this process a signal at some place."""

    def __init__(self, stage: str, done: int, number: signal.Signals = signal.SIGTERM) -> None:
        self.place = (stage, done)
        self.number = number

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        if (stage, done) == self.place:
            os.kill(os.getpid(), self.number)
            self.place = ("", 0)


@pytest.mark.parametrize(
    ("change", "stops"),
    [
        (EVERYTHING, [("epoch 1/2", 1), ("epoch 2/2", 3)]),
        ({}, [("evaluate", 4), ("epoch 2/2", 2)]),
    ],
)
def test_stopped_at_any_step_and_resumed_it_ends_with_the_same_weights(
    change: dict[str, object], stops: list[tuple[str, int]], data: Path, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(CONFIG, epochs=2, **change)
    whole = run(config, data, tmp_path / "whole")
    for number, place in enumerate(stops):
        with pytest.raises(StoppedError, match="--resume") as caught:
            run(config, data, tmp_path / "parts", resume=number > 0, progress=Signal(*place))
        assert caught.value.exit_code == 5
    parts = run(config, data, tmp_path / "parts", resume=True)
    (mine, my_record), (theirs, their_record) = (read_tensors(result.last) for result in (parts, whole))
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name
    assert [row.losses for row in my_record.history] == [row.losses for row in their_record.history]
    assert my_record.best_epoch == their_record.best_epoch and my_record.step == 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Gpu(str):
    """The processor, called a GPU: whose losses are looked at every tenth step only."""

    type = "cuda"


def test_stopped_between_two_looks_at_a_gpu_a_run_is_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: dict[int, str] = {}

    class Listen:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            if stage == "epoch 1/1":
                texts[done] = text

    config = msgspec.structs.replace(CONFIG, epochs=1, batch=1)
    whole = run(config, data, tmp_path / "whole")
    with pytest.raises(StoppedError, match="3 of 13 steps"):
        run(config, data, tmp_path / "parts", progress=Signal("epoch 1/1", 3))
    monkeypatch.setattr(Run, "device", Gpu("cpu"))
    parts = run(config, data, tmp_path / "parts", resume=True, progress=Listen())
    assert list(texts) == list(range(4, 14)) and all(texts.values())
    assert texts[5] == texts[4] != texts[11]
    mine, theirs = (read_tensors(result.last)[0] for result in (parts, whole))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_a_second_interrupt_ends_at_once(data: Path, tmp_path: Path) -> None:
    class Twice:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, data, tmp_path / "run", progress=Twice())
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_the_command_says_that_it_was_stopped_and_exits_with_5(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "edgeyolo", "train", "--model", "yolov7-nano", "--data", str(data)]
    command += ["--out", str(out), "--epochs", "500", "--image-size", "64", "--workers", "1", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    assert any("epoch 1/500" in line for line in iter(process.stderr.readline, ""))  # after what it expects of the set
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "stopped by SIGTERM" in said and "Traceback" not in said
    reached = read_record(out / "last.safetensors")
    assert reached.epoch + reached.step > 0 and f"after {reached.epoch} of 500 epochs" in said
    assert reached.step == 0 or f"and {reached.step} of" in said


def test_a_loss_that_is_not_a_number_names_the_layer(data: Path, tmp_path: Path) -> None:
    state, batch = fresh(data, tmp_path)
    layers = [name for name, m in state.model.named_modules() if isinstance(m, nn.Conv2d)]
    broken = layers[len(layers) // 2]
    with torch.no_grad():
        state.model.get_submodule(broken).weight[0] = float("inf")
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    with pytest.raises(TrainingError, match=f"layer {broken}") as caught:
        train_step(state, batch)
    assert batch.image_ids[0] in str(caught.value)
    assert all(torch.equal(p, before[name]) for name, p in state.model.named_parameters())


def test_a_gradient_that_is_not_a_number_stops_before_the_step(data: Path, tmp_path: Path) -> None:
    state, batch = fresh(data, tmp_path)
    name, last = list(state.model.named_parameters())[-1]
    last.register_hook(lambda gradient: gradient * float("nan"))
    before = last.detach().clone()
    with pytest.raises(TrainingError, match=f"gradients are not finite.*{name}"):
        train_step(state, batch)
    assert torch.equal(last, before)


def test_no_number_in_a_run_keeps_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data, "train")
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        run(CONFIG, data, out, progress=Signal("epoch 2/3", 1))
    kept = (out / "last.safetensors").read_bytes()
    state = start_detector(CONFIG, dataset, out, resume=True)
    with torch.no_grad():
        next(state.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError):
        train_step(state, next(iter(plain_loader(dataset, 2))))
    assert (out / "last.safetensors").read_bytes() == kept


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files can grow to 64 KiB, as on a disk that is full; lifted afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_leaves_the_old_checkpoint(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    class Fill:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            if stage == "epoch 2/3" and done == 1:
                kept.append((out / "last.safetensors").read_bytes())
                resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    kept: list[bytes] = []
    with pytest.raises(OutputError, match="safetensors"):
        run(CONFIG, data, out, progress=Fill())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (out / "last.safetensors").read_bytes() == kept[0]
    assert not list(out.glob("*.tmp-*"))


OUT_OF_MEMORY = """
import resource, sys, torch, msgspec
from pathlib import Path
from edgeyolo.data.dataset import open_dataset
from edgeyolo.training import TrainResult, train
from edgeyolo.training.batch_size import _kib
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.loader import Batch
from edgeyolo.training.step import train_step
from fresh_run import start_detector
torch.set_num_threads(1)
config = TrainConfig(model="yolov7-nano", image_size=128, batch=256, device="cpu", precision="fp32")
unlimited = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_AS, (2**46, unlimited))
run = start_detector(config, open_dataset(sys.argv[1], "train"), Path(sys.argv[2]))
run.start_training()
def batch(size):
    return Batch(torch.zeros(size, 3, 128, 128, dtype=torch.uint8), torch.zeros(0, 6), ["x"] * size)
train_step(run, batch(2))
limit = int(_kib("/proc/self/status", "VmSize") + 600 * 2**20)
resource.setrlimit(resource.RLIMIT_AS, (limit, unlimited))
try:
    train_step(run, batch(int(sys.argv[3])))
    print("fits", flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))  # to end, a process may need some
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space is Linux's")
def test_out_of_memory_says_which_batch_fits_and_it_does(data: Path, tmp_path: Path) -> None:
    """In a new process, as people start one then: what is left of the first one's memory is in pieces."""
    path = os.pathsep.join(sys.path)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": path}

    def step(batch: int) -> str:
        told = [str(data), str(tmp_path / str(batch)), str(batch)]
        command = [sys.executable, "-X", "faulthandler", "-c", OUT_OF_MEMORY, *told]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    said = step(256)
    assert "TrainingError" in said and "out of memory at batch 256" in said, said
    fitting = int(said.split("batch of ")[1].split()[0])
    assert fitting >= 4 and "fits" in step(fitting)


def test_batch_auto_grows_with_memory_and_with_data(data: Path, tmp_path: Path) -> None:
    state, _ = fresh(data, tmp_path)
    fitting = largest_fitting(state.job, state.model)
    assert 16 < fitting < free_bytes(torch.device("cpu")) / (3 * 64 * 64 * 4)
    assert find_batch(state.job, 13, World()) == 1
    assert find_batch(state.job, 200, World()) == 8
    assert find_batch(state.job, 10_000, World()) == min(64, 1 << (fitting.bit_length() - 1))


def test_batch_zero_is_resolved_before_training(data: Path, tmp_path: Path) -> None:
    state, _ = fresh(data, tmp_path, batch=0)
    assert state.config.batch == state.record(None).config.batch == 1


def test_parts_of_a_batch_give_the_gradients_of_the_whole(data: Path, tmp_path: Path) -> None:
    found = []
    for accumulate in (1, 3):
        state, batch = fresh(data, tmp_path, batch=5, accumulate=accumulate)
        state.model.eval()  # batch normalisation sees a part of the batch
        loss = backward(state, normalise(batch.images, state.job.spec.input), batch.targets)
        found.append((loss.total, [p.grad for p in state.model.parameters()]))
    (whole, gradients), (parts, sums) = found
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)
    for mine, theirs in zip(sums, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_parts_move_the_statistics_once_each(data: Path, tmp_path: Path) -> None:
    state, batch = fresh(data, tmp_path, accumulate=2)
    backward(state, normalise(batch.images, state.job.spec.input), batch.targets)
    counts = {int(b) for n, b in state.model.named_buffers() if n.endswith("num_batches_tracked")}
    assert counts == {2}


def test_frozen_parts_stay(data: Path, tmp_path: Path) -> None:
    state, batch = fresh(data, tmp_path, freeze=("backbone",), weight_decay=0.1)
    before = {name: t.clone() for name, t in state.model.state_dict().items()}
    train_step(state, batch)
    changed = {name for name, t in state.model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed and not any(name.startswith("backbone.") for name in changed)
    with pytest.raises(UnknownNameError, match="Did you mean 'backbone'"):
        fresh(data, tmp_path, freeze=("backbon",))
    with pytest.raises(UsageError, match="nothing is left to train"):
        fresh(data, tmp_path, freeze=("backbone", "neck", "head"))


def test_smoothed_labels_change_the_loss_of_whole_classes_only(data: Path, tmp_path: Path) -> None:
    losses = []
    for amount in (0.0, 0.2):
        state, batch = fresh(data, tmp_path, label_smoothing=amount)
        losses.append(train_step(state, batch))
    assert losses[0]["classes"] != losses[1]["classes"] and losses[0]["box"] == losses[1]["box"]
    with pytest.raises(UsageError, match="label_smoothing"):
        fresh(data, tmp_path, model="ppyoloe-s", label_smoothing=0.1)


def test_losses_are_those_that_the_config_names(data: Path, tmp_path: Path) -> None:
    own, other = (
        train_step(*fresh(data, tmp_path, **change))
        for change in ({}, {"box_loss": "eiou", "box_loss_alpha": 3.0, "class_loss": "quality_focal"})
    )
    assert own["objectness"] == other["objectness"]
    assert own["box"] != other["box"] and own["classes"] != other["classes"]
    with pytest.raises(UsageError, match="class_loss"):
        fresh(data, tmp_path, class_loss="varifocal")


def test_half_precision_needs_a_gpu(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        fresh(data, tmp_path, precision="fp16")


def test_the_scale_of_half_precision_is_saved_and_put_back(data: Path, tmp_path: Path) -> None:
    state, batch = fresh(data, tmp_path)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    expected, _ = fresh(data, tmp_path)
    for _ in range(2):
        torch.testing.assert_close(train_step(state, batch)["total"], train_step(expected, batch)["total"])
    state.history, state.sums = [], {}
    state.save_last(None)
    other = start_detector(CONFIG, open_dataset(data, "train"), tmp_path, resume=True)
    assert not other.scaler.is_enabled() and float(read_tensors(state.last)[0]["scaler.scale"]) == 2048.0


def test_a_compiler_that_is_missing_has_a_message(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, batch = fresh(data, tmp_path)
    state.config = msgspec.structs.replace(CONFIG, compile=True)

    def fail(*arguments: object, **settings: object) -> None:
        raise TorchDynamoException("no compiler")

    monkeypatch.setattr(state.forward, "_compiled_call_impl", fail)
    with pytest.raises(UsageError, match="compile=false"):
        train_step(state, batch)
