"""The build cache: built once by all who ask, never trusted when damaged or foreign, nothing left by a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgeyolo.backends.tensorrt import cache
from edgeyolo.backends.tensorrt.cache import PlanKey, cached_plan, forget_plan
from edgeyolo.spec.errors import BackendError, OutputError
from edgeyolo.spec.lock import locked, remove_if_free

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


def make_plans(folder: Path, count: int) -> list[PlanKey]:
    """Plans one after the other, each a second newer than the one before."""
    keys = [msgspec.structs.replace(KEY, gpu=f"GPU {number}") for number in range(count)]
    for number, key in enumerate(keys):
        cached_plan(key, lambda: PLAN, folder=folder)
        os.utime(folder / f"{key.digest()}.json", (1e9 + number, 1e9 + number))
    return keys


def list_kept(folder: Path, keys: list[PlanKey]) -> list[int]:
    return [number for number, key in enumerate(keys) if (folder / f"{key.digest()}.plan").exists()]


@pytest.mark.parametrize("limit", [{"MOST_PLANS": 4}, {"MOST_BYTES": 4 * len(PLAN)}])
def test_plans_not_used_for_longest_go(limit: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = make_plans(tmp_path, 6)
    assert list_kept(tmp_path, keys) == [0, 1, 2, 3, 4, 5]
    cached_plan(keys[1], never, folder=tmp_path)  # used now
    for name, value in limit.items():
        monkeypatch.setattr(cache, name, value)
    cached_plan(KEY, lambda: PLAN, folder=tmp_path)
    assert list_kept(tmp_path, keys) == [1, 4, 5]
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.lock"))) == 4
    assert cache.kept_plans(tmp_path) == (4, 4 * len(PLAN))
    assert cached_plan(keys[0], lambda: b"again", folder=tmp_path) == b"again"


def test_a_plan_larger_than_all_that_may_be_kept_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 10)
    for key in (KEY, msgspec.structs.replace(KEY, gpu="another")):
        cached_plan(key, lambda: PLAN, folder=tmp_path)
        assert cached_plan(key, never, folder=tmp_path) == PLAN
    assert cache.kept_plans(tmp_path)[0] == 1


def test_kernel_times_of_versions_long_gone_go(tmp_path: Path) -> None:
    for number in range(cache.MOST_TIMINGS + 3):
        key = msgspec.structs.replace(KEY, version=f"10.{number}")
        cache.write_timing_cache(key, b"times", folder=tmp_path)
        cached_plan(key, lambda: PLAN, folder=tmp_path)
    assert len(list(tmp_path.glob("*.timing"))) == cache.MOST_TIMINGS
    assert cache.read_timing_cache(key, folder=tmp_path) == b"times"


def test_a_lock_that_is_held_outlives_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (key,) = make_plans(tmp_path, 1)
    lock = tmp_path / f"{key.digest()}.lock"
    monkeypatch.setattr(cache, "MOST_PLANS", 1)
    with locked(lock, waiting_for="testing"):
        cached_plan(KEY, lambda: PLAN, folder=tmp_path)
        assert list_kept(tmp_path, [key]) == []
        assert lock.exists()
    remove_if_free(lock)
    assert not lock.exists()


def test_a_lock_whose_file_is_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    lock, order, waits = tmp_path / "lock", [], threading.Event()

    def wait() -> None:
        waits.set()
        with locked(lock, waiting_for="testing"):
            order.append("second")
            assert lock.exists()

    with locked(lock, waiting_for="testing"):
        waiter = threading.Thread(target=wait)
        waiter.start()
        waits.wait()
        time.sleep(0.1)
        order.append("first")
        lock.unlink()
        lock.touch()  # of another process, which does not hold it
    waiter.join(10)
    assert order == ["first", "second"]


WINDOWS = """
import fcntl, os, subprocess, sys, types
real = fcntl
sys.modules["fcntl"] = None
def locking(descriptor, mode, count):
    real.flock(descriptor, real.LOCK_EX | real.LOCK_NB)
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
from pathlib import Path
from edgeyolo import backends
from edgeyolo.spec import lock
from edgeyolo.spec.target import load_target
lock.sys = types.SimpleNamespace(platform="win32")
for name in backends.list_engines():
    backends.load_engine(name).examine()
from edgeyolo.backends.tensorrt.cache import PlanKey, cached_plan
import msgspec
key = msgspec.json.decode(sys.argv[2], type=PlanKey)
folder = Path(sys.argv[1])
print(cached_plan(key, lambda: b"built", folder=folder), cached_plan(key, lambda: b"again", folder=folder))
"""


def test_windows_locks_without_fcntl(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WINDOWS, str(tmp_path), msgspec.json.encode(KEY).decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "b'built' b'built'\n", done.stderr
