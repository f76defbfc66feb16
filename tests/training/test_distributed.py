"""Two processes, started by torchrun, do what one does; and say so when one of them is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn

from edgeyolo import models
from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.training import AugmentConfig, TrainConfig
from edgeyolo.training import train
from edgeyolo.training.batch_size import find_batch
from edgeyolo.training.checkpoint import CheckpointRecord, load_checkpoint, read_tensors, save_checkpoint
from edgeyolo.training.config import resolve
from edgeyolo.training.detector import make_detector_job
from edgeyolo.training.distributed import find_world, joined
from edgeyolo.training.loader import make_loader, own_share
from edgeyolo.training.order import make_order
from edgeyolo.training.run import start_run
from edgeyolo.training.step import backward, normalise
from edgeyolo.training.sync_batch_norm import SyncBatchNorm

PLAIN = AugmentConfig(0, 0, 0, 0, 0, 0, 0, 0, 0, mosaic=0, mixup=0)
NANO = TrainConfig(
    model="yolov7-nano", epochs=3, image_size=64, batch=4, workers=0, precision="fp32", device="cpu", augment=PLAIN
)
SCENES: dict[str, TrainConfig] = {
    "even": NANO,
    "uneven": msgspec.structs.replace(NANO, batch=5),
    "one picture": msgspec.structs.replace(NANO, batch=1),  # none for the second process
    "no objects": NANO,  # on the first process; see `without_objects`
    "in parts": msgspec.structs.replace(NANO, batch=6, accumulate=3),
    "in uneven parts": msgspec.structs.replace(NANO, batch=9, accumulate=4),  # of four and of five pictures
    "in empty parts": msgspec.structs.replace(NANO, batch=3, accumulate=3),
    "statistics of parts": msgspec.structs.replace(NANO, batch=5, accumulate=3),
    "ppyoloe": msgspec.structs.replace(NANO, model="ppyoloe-s", batch=5),
    "ppyoloe one picture": msgspec.structs.replace(NANO, model="ppyoloe-s", batch=1),
    "taught": msgspec.structs.replace(NANO, batch=5),
    "taught one picture": msgspec.structs.replace(NANO, batch=1),
    "ppyoloe taught one picture": msgspec.structs.replace(NANO, model="ppyoloe-s", batch=1),
}
LOSS_TOLERANCE = 1e-6  # of the loss, relative: it is computed in float32
TOLERANCE = 1e-7  # of all gradients together, relative, in float64
TAUGHT_TOLERANCE = 1e-5  # a teacher is compared with in float32
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": "", "PYTHONWARNINGS": "ignore"}


def gradients_of(scene: str, data: Dataset, out: Path, **change: int) -> dict[str, Tensor]:
    """Loss, gradients and statistics of batch normalisation after the first batch, as this process has them."""
    config = msgspec.structs.replace(SCENES[scene], **change)
    if "taught" in scene:
        config = msgspec.structs.replace(config, teacher=str(out / config.model))
    torch.set_default_dtype(torch.float64)  # so that rounding does not hide a fault: batches this small blow it up
    try:
        job = make_detector_job(resolve(config), data, torch.device("cpu"))
        run = start_run(job, config, data, out / "none", world=find_world())
    finally:
        torch.set_default_dtype(torch.float32)
    order = make_order(config, job.spec, data, run.world.rank, run.world.size)
    loader = make_loader(data, order, input_spec=job.spec.input, augment=PLAIN)
    run.start_training()
    run.job.start_epoch(0)
    if scene.startswith("in "):  # statistics are of a part, and other pictures make a part of two processes
        run.model.eval()
    batch = own_share(next(iter(loader)), order.share)
    if scene == "no objects":
        batch = batch._replace(targets=batch.targets[batch.targets[:, 0] >= 2 - 2 * run.world.rank])
    images = normalise(batch.images, run.job.spec.input).double().contiguous(memory_format=torch.channels_last)
    loss = backward(run, images, batch.targets)
    found = {f"gradient.{n}": p.grad for n, p in run.model.named_parameters() if p.grad is not None}
    found |= {f"statistic.{n}": b for n, b in run.model.named_buffers() if n.endswith(("mean", "var"))}
    return found | {"loss": run.world.mean(loss.total.detach())}


def in_every_process(folder: Path) -> None:
    """What torchrun runs.

    Its threads hand over the interpreter's lock only where they wait: a thread of torch's that still needs it when the
    run ends would be met by the end of the interpreter, as happens by chance on a busy machine, and abort the process.
    """
    sys.setswitchinterval(100)
    torch.set_num_threads(1)
    world = find_world()
    with joined(world, torch.device("cpu")):
        data = open_dataset(folder / "data", "train")
        for scene in SCENES:
            found = gradients_of(scene, data, folder)
            save_file({n: t.contiguous() for n, t in found.items()}, folder / f"{scene}-{world.rank}.safetensors")
        job = make_detector_job(resolve(NANO), data, torch.device("cpu"))
        save_file({"batch": torch.tensor(find_batch(job, 200, world))}, folder / f"auto-{world.rank}.safetensors")
        for _ in range(20):
            world.by_first(lambda: None)


def torchrun(*arguments: str | Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *map(str, arguments),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    draw_dataset(folder / "data", {"train": 13, "val": 4, "test": 2}, seed=1)
    for name in ("yolov7-nano", "ppyoloe-s"):
        save_teacher(name, open_dataset(folder / "data", "train").class_names, folder / f"{name}.safetensors")
    return folder


def save_teacher(name: str, class_names: tuple[str, ...], path: Path) -> None:
    """A checkpoint with random weights."""
    torch.manual_seed(5)
    model = models.create(name, len(class_names))
    spec = ModelSpec(
        name=name,
        activation=model.config.activation,
        class_names=class_names,
        input=model.make_input_spec((64, 64)),
        decode=model.decode,
    )
    record = CheckpointRecord(model=spec, config=msgspec.structs.replace(NANO, model=name), data="drawn", epoch=1)
    save_checkpoint(path, {f"model.{n}": tensor for n, tensor in model.state_dict().items()}, record)


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """The folder with what two processes found."""
    done = subprocess.run(torchrun(__file__, folder), env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene != "statistics of parts"])
def test_two_processes_find_the_loss_and_gradients_of_one(scene: str, two: Path, one_thread: None) -> None:
    whole = gradients_of(scene, open_dataset(two / "data", "train"), two, accumulate=1)
    tolerance = TAUGHT_TOLERANCE if "taught" in scene else TOLERANCE
    for rank in (0, 1):
        part = load_file(two / f"{scene}-{rank}.safetensors")
        assert part.keys() == whole.keys()
        torch.testing.assert_close(part["loss"], whole["loss"], rtol=LOSS_TOLERANCE, atol=0)
        for kind in ("gradient", "statistic"):
            found, expected = (
                torch.cat([t.flatten() for n, t in sorted(v.items()) if n.startswith(kind)]) for v in (part, whole)
            )
            assert (found - expected).norm() < tolerance * expected.norm(), (found - expected).norm() / expected.norm()


def test_a_batch_that_fits_is_found_by_one_for_all(two: Path) -> None:
    """Two hundred pictures in sixteen steps: six for each of two processes, of which four are a power of two."""
    assert [int(load_file(two / f"auto-{rank}.safetensors")["batch"]) for rank in (0, 1)] == [8, 8]


def test_parts_of_uneven_shares_leave_both_processes_with_the_same(two: Path) -> None:
    """One has two pictures and the other three, in three parts: statistics are of a part, over both."""
    mine, theirs = (load_file(two / f"statistics of parts-{rank}.safetensors") for rank in (0, 1))
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-12, atol=0, msg=name)


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_batch_normalisation_over_processes_is_as_exact_as_torchs_in_bf16(offset: float) -> None:
    """Error from the result in double precision, per channel: its rms and its mean, against `nn.BatchNorm2d`."""
    x = (torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(2)) + offset).bfloat16()
    mean, variance = x.double().mean((0, 2, 3), keepdim=True), x.double().var((0, 2, 3), keepdim=True, correction=0)
    exact = (x.double() - mean) / (variance + 1e-5).sqrt()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mine, theirs = (layer(8)(x).double() - exact for layer in (SyncBatchNorm, nn.BatchNorm2d))
    finally:
        distributed.destroy_process_group()
    assert mine.square().mean().sqrt() < 1.1 * theirs.square().mean().sqrt()
    assert mine.mean((0, 2, 3)).abs().max() < 1e-3


def train_command(data: Path, out: Path, *more: str) -> list[str]:
    common = ["--model", "yolov7-nano", "--data", str(data), "--out", str(out), "--epochs", "40", "--image-size", "64"]
    return ["-m", "edgeyolo", "train", *common, "--batch", "3", "--workers", "0", "--device", "cpu", *more]


def worker_of(launcher: int, rank: int) -> int | None:
    """The process of a rank that a launcher started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError, ValueError):
            continue
        if parent == launcher and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    return None


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
def test_a_killed_process_ends_the_run_which_then_goes_on_in_one(folder: Path) -> None:
    out = folder / "run"
    launcher = subprocess.Popen(
        torchrun(*train_command(folder / "data", out)), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while not (out / "log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    killed = worker_of(launcher.pid, rank=1)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert "process 1 of 2 has ended" in said and "--resume" in said
    reached = load_checkpoint(out / "last.safetensors").record.epoch
    assert 1 <= reached < 40
    tensors, record = read_tensors(out / "last.safetensors")
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    train_one_more(out, folder, record.epoch)


def train_one_more(out: Path, folder: Path, reached: int) -> None:
    """Resume in this process, alone, and stop after the next epoch."""

    class Leave:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            if stage.startswith(f"epoch {reached + 2}/"):
                raise KeyboardInterrupt

    splits = (open_dataset(folder / "data", "train"), open_dataset(folder / "data", "val"))
    with pytest.raises(KeyboardInterrupt):
        train(NANO, splits, out, resume=True, progress=Leave())
    assert load_checkpoint(out / "last.safetensors").record.epoch == reached + 1


if __name__ == "__main__":
    in_every_process(Path(sys.argv[1]))
