"""Two machines, each with a network, an address and folders of its own: namespaces, as root makes them on Linux."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgeyolo.data.drawn import draw_dataset
from edgeyolo.training.checkpoint import CheckpointRecord, read_record

SPACES, LINKS = ("edgeyolo-a", "edgeyolo-b"), ("edgeyolo0", "edgeyolo1")
ADDRESSES = ("10.97.31.1", "10.97.31.2")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
PATIENCE_S = 400


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[None]:
    """Two namespaces and a cable between them."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root on Linux, and ip")
    try:
        for space in SPACES:
            made = ip("netns", "add", space)
            if made.returncode:
                pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
        ip("link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1])
        for space, link, address in zip(SPACES, LINKS, ADDRESSES, strict=True):
            ip("link", "set", link, "netns", space)
            ip("-n", space, "addr", "add", f"{address}/24", "dev", link)
            for device in (link, "lo"):
                ip("-n", space, "link", "set", device, "up")
        yield
    finally:
        for space in SPACES:
            ip("netns", "del", space)


TRAINING = (
    *("-m", "edgeyolo", "train", "--model", "yolov7-nano", "--data", "data", "--out", "run", "--epochs", "4"),
    *("--image-size", "64", "--batch", "4", "--workers", "0", "--device", "cpu", "--no-report", "--precision", "fp32"),
)


def start(folder: Path, *more: str) -> list[subprocess.Popen[str]]:
    """The same training on both machines, each with a copy of the data and an output of its own."""
    processes = []
    for node, (space, link) in enumerate(zip(SPACES, LINKS, strict=True)):
        place = folder / space
        if not place.exists():
            shutil.copytree(folder / "data", place / "data")
        launch = ["ip", "netns", "exec", space, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        launch += ["--node-rank", str(node), "--master-addr", ADDRESSES[0], "--master-port", "29533"]
        environment = ENVIRONMENT | {"GLOO_SOCKET_IFNAME": link}
        processes.append(
            subprocess.Popen(
                [*launch, *TRAINING, *more],
                cwd=place,
                env=environment,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
    return processes


def wait_for(path: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists() and time.monotonic() < deadline and all(p.poll() is None for p in processes):
        time.sleep(0.02)
    assert path.exists(), [p.communicate()[1] for p in processes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    draw_dataset(folder / "data", {"train": 13, "val": 4, "test": 2}, seed=1)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> CheckpointRecord:
    """What two processes of one machine do, without a stop."""
    place = folder / "one-machine"
    shutil.copytree(folder / "data", place / "data")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, *TRAINING], cwd=place, env=ENVIRONMENT, check=True, capture_output=True)
    return read_record(place / "run/last.safetensors")


@pytest.mark.slow
def test_a_lost_machine_ends_a_training_that_two_then_finish_as_if_never_stopped(
    machines: None, folder: Path, whole: CheckpointRecord
) -> None:
    run = folder / SPACES[0] / "run"
    processes = start(folder)
    wait_for(run / "log.csv", processes)
    pids = subprocess.run(["ip", "netns", "pids", SPACES[1]], capture_output=True, text=True).stdout.split()
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    said = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    assert all(process.returncode != 0 for process in processes)
    assert "process 1 of 2 has ended" in said[0] and "--resume" in said[0], said[0]
    processes = start(folder, "--resume")
    said = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert not (folder / SPACES[1] / "run").exists()
    record = read_record(run / "last.safetensors")
    assert [row.epoch for row in record.history] == [1, 2, 3, 4]
    for mine, theirs in zip(record.history, whole.history, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-5)


@pytest.mark.slow
def test_told_to_stop_in_the_middle_of_an_epoch_two_machines_go_on_there(machines: None, folder: Path) -> None:
    shutil.rmtree(folder / SPACES[0] / "run", ignore_errors=True)
    run = folder / SPACES[0] / "run"
    processes = start(folder)
    wait_for(run / "log.csv", processes)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate(timeout=PATIENCE_S)
    stopped = read_record(run / "last.safetensors")
    processes = start(folder, "--resume")
    said = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    record = read_record(run / "last.safetensors")
    assert len(record.history) == 4 and record.history[: stopped.epoch] == stopped.history
    assert torch.isfinite(torch.tensor(record.history[-1].losses["total"]))
