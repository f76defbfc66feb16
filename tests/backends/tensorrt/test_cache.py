"""The build cache: built once by all who ask, never trusted when damaged or foreign, nothing left by a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgeyolo.backends.tensorrt.cache import PlanKey, cached_plan, forget_plan
from edgeyolo.spec.errors import BackendError, OutputError

KEY = PlanKey(
    onnx_sha256="0" * 64,
    gpu="Orin",
    compute_capability="8.7",
    package="tensorrt",
    version="10.3.0",
    precision="int8",
    options={"workspace_mib": 1024},
)
PLAN = b"plan" * 1000

# A process that builds slowly and says so: one line per build in built.txt.
PROGRAM = """
import sys, time
from pathlib import Path
import msgspec
from edgeyolo.backends.tensorrt.cache import PlanKey, cached_plan
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
key = msgspec.json.decode(sys.argv[3], type=PlanKey)
def build():
    with (folder.parent / "built.txt").open("a") as stream:
        stream.write("built\\n")
    time.sleep(seconds)
    return b"plan" * 1000
assert cached_plan(key, build, folder=folder) == b"plan" * 1000
"""


def start(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    key = msgspec.json.encode(KEY).decode()
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), str(seconds), key])


def never() -> bytes:
    raise AssertionError("the cached plan should have been used")


def test_eight_processes_build_once(tmp_path: Path) -> None:
    processes = [start(tmp_path / "cache", 1.0) for _ in range(8)]
    assert [process.wait(60) for process in processes] == [0] * 8
    assert (tmp_path / "built.txt").read_text() == "built\n"


def test_a_kill_leaves_no_plan_and_the_next_one_builds(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    process = start(folder, 60.0)
    deadline = time.monotonic() + 30
    while not (tmp_path / "built.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not list(folder.glob("*.plan")) + list(folder.glob("*.json"))
    assert cached_plan(KEY, lambda: PLAN, folder=folder) == PLAN


def test_a_kill_between_plan_and_record_is_no_plan(tmp_path: Path) -> None:
    cached_plan(KEY, lambda: b"old", folder=tmp_path)
    (tmp_path / f"{KEY.digest()}.json").unlink()
    (tmp_path / f"{KEY.digest()}.plan.tmp-1").write_bytes(b"half")
    assert cached_plan(KEY, lambda: PLAN, folder=tmp_path) == PLAN
    assert not list(tmp_path.glob("*.tmp-*"))


def damage_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[7] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "damage",
    [
        damage_bit,
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_bytes(b"{"),
        lambda path: damage_bit(path.with_suffix(".json")),
    ],
)
def test_a_damaged_plan_is_built_again(damage: object, tmp_path: Path) -> None:
    cached_plan(KEY, lambda: PLAN, folder=tmp_path)
    damage(tmp_path / f"{KEY.digest()}.plan")  # type: ignore[operator]
    builds = []
    assert cached_plan(KEY, lambda: builds.append(1) or PLAN, folder=tmp_path) == PLAN
    assert builds == [1]
    assert cached_plan(KEY, never, folder=tmp_path) == PLAN


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "Xavier"},
        {"compute_capability": "7.2"},
        {"version": "10.4.0"},
        {"package": "tensorrt_rtx"},
        {"onnx_sha256": "1" * 64},
        {"qparams_sha256": "1" * 64},
        {"precision": "fp16"},
        {"options": {"workspace_mib": 512}},
    ],
)
def test_a_plan_of_anything_else_is_not_used(change: dict[str, object], tmp_path: Path) -> None:
    cached_plan(KEY, lambda: b"another", folder=tmp_path)
    other = msgspec.structs.replace(KEY, **change)
    assert cached_plan(other, lambda: PLAN, folder=tmp_path) == PLAN
    # Even under the other's name, it is not what its record says.
    for kind in ("plan", "json"):
        (tmp_path / f"{KEY.digest()}.{kind}").replace(tmp_path / f"{other.digest()}.{kind}")
    assert cached_plan(other, lambda: b"again", folder=tmp_path) == b"again"


def test_a_failed_build_keeps_nothing(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise BackendError("out of memory")

    with pytest.raises(BackendError, match="out of memory"):
        cached_plan(KEY, fail, folder=tmp_path)
    assert cached_plan(KEY, lambda: PLAN, folder=tmp_path) == PLAN


def test_a_refused_plan_is_forgotten(tmp_path: Path) -> None:
    cached_plan(KEY, lambda: b"refused", folder=tmp_path)
    forget_plan(KEY, folder=tmp_path)
    assert cached_plan(KEY, lambda: PLAN, folder=tmp_path) == PLAN


READ_ONLY = """
import os, sys
from pathlib import Path
import msgspec
from edgeyolo.backends.tensorrt.cache import PlanKey, cached_plan
from edgeyolo.spec.errors import OutputError
if os.geteuid() == 0:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
folder, key = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=PlanKey)
try:
    print(cached_plan(key, lambda: b"built", folder=folder).decode()[:8])
except OutputError as error:
    print(error)
"""


def ask_without_rights(folder: Path) -> str:
    """As a user who may read the folder and not write it; nobody, where the tests run as root."""
    command = [sys.executable, "-c", READ_ONLY, str(folder), msgspec.json.encode(KEY).decode()]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that everybody may read; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "cache"
        folder.mkdir()
        Path(name).chmod(0o755)
        yield folder
        folder.chmod(0o755)


def test_a_read_only_folder_says_how_to_choose_another(read_only: Path) -> None:
    read_only.chmod(0o555)
    said = ask_without_rights(read_only)
    assert "the build cache cannot be written (Permission denied)" in said
    assert "EDGEYOLO_CACHE" in said


def test_a_read_only_folder_serves_the_plans_in_it(read_only: Path) -> None:
    cached_plan(KEY, lambda: PLAN, folder=read_only)
    for path in read_only.iterdir():
        path.chmod(0o444)
    read_only.chmod(0o555)
    assert ask_without_rights(read_only).strip() == "planplan"


def test_a_folder_that_cannot_be_says_how_to_choose_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="EDGEYOLO_CACHE"):
        cached_plan(KEY, never, folder=tmp_path / "file" / "cache")
