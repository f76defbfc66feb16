"""Plans built on this machine, one file each: built once, never trusted when anything they depend on has changed.

KEY.plan is the raw plan, as trtexec or C++ read it; KEY.json says what it is and the sha256 it must have. The plan is
written first, the record last, each renamed into place, under a lock that dies with its process: whatever is
interrupted, there is a valid pair or none. What was not used for longest goes when there is too much.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.cache import FOLDER_VARIABLE, cache_folder
from edgeyolo.spec.errors import FormatError, OutputError
from edgeyolo.spec.lock import locked, remove_if_free
from edgeyolo.spec.strict import encode_json, load_json
from edgeyolo.spec.target import Option, Precision

logger = logging.getLogger(__name__)

# Kept on this machine, those that were used last; a plan has 10 to 200 MB.
MOST_PLANS, MOST_BYTES, MOST_TIMINGS = 16, 2 << 30, 4


class PlanKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a plan depends on.

    Attributes:
        onnx_sha256: of the graph it is built from.
        qparams_sha256: of the scales that go in beside the graph (INT8 on DLA), "" where they are in it.
        gpu: name, as the driver gives it.
        compute_capability: such as "8.7".
        package, version: of TensorRT.
        options: of the build.
        names: what a plan says of its layers: before, their names alone.
    """

    onnx_sha256: str
    qparams_sha256: str = ""
    gpu: str
    compute_capability: str
    package: str
    version: str
    precision: Precision
    options: dict[str, Option]
    names: Literal["detailed"] = "detailed"

    def digest(self) -> str:
        """Name of its files."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:32]


class PlanRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`KEY.json`."""

    key: PlanKey
    plan_sha256: str
    plan_bytes: int


def plan_folder() -> Path:
    """Where plans are kept on this machine."""
    return cache_folder("tensorrt")


def cached_plan(key: PlanKey, build: Callable[[], bytes], *, folder: Path | None = None) -> bytes:
    """The plan of `key`: from the cache, or built and kept there. Processes that ask at once build it once.

    A folder that cannot be written serves the plans that are in it.

    Args:
        build: gives the plan; may take minutes.
        folder: None for `plan_folder()`.

    Raises:
        OutputError: the folder cannot be written. Whatever `build` raises; nothing is kept then.
    """
    folder = folder or plan_folder()
    name = key.digest()
    if (found := _read(folder, name, key)) is not None:
        return found
    with _locked(folder, name):
        if (found := _read(folder, name, key)) is not None:
            return found
        _remove_leftovers(folder, name)
        plan = build()
        record = PlanRecord(key=key, plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan))
        write_file(folder / f"{name}.plan", plan)
        write_file(folder / f"{name}.json", encode_json(record))
    _prune(folder)
    return plan


def forget_plan(key: PlanKey, *, folder: Path | None = None) -> None:
    """Remove a plan that the engine refuses."""
    folder = folder or plan_folder()
    with _locked(folder, key.digest()):
        _remove_leftovers(folder, key.digest())


def read_timing_cache(key: PlanKey, *, folder: Path | None = None) -> bytes:
    """Kernel times of earlier builds with this TensorRT on this GPU, b"" where there are none."""
    path = _timing_path(key, folder or plan_folder())
    return path.read_bytes() if path.is_file() else b""


def kept_plans(folder: Path | None = None) -> tuple[int, int]:
    """How many plans are kept, and their bytes."""
    sizes = [path.stat().st_size for path in (folder or plan_folder()).glob("*.plan")]
    return len(sizes), sum(sizes)


def write_timing_cache(key: PlanKey, raw: bytes, *, folder: Path | None = None) -> None:
    """Keep kernel times for the next build."""
    if raw:
        write_file(_timing_path(key, folder or plan_folder()), raw)


def _timing_path(key: PlanKey, folder: Path) -> Path:
    machine = f"{key.package} {key.version} {key.gpu} {key.compute_capability}"
    return folder / f"{hashlib.sha256(machine.encode()).hexdigest()[:32]}.timing"


def _read(folder: Path, name: str, key: PlanKey) -> bytes | None:
    """The plan, if record and plan are whole and belong to `key`."""
    plan_path, record_path = folder / f"{name}.plan", folder / f"{name}.json"
    if not plan_path.is_file() or not record_path.is_file():
        return None
    try:
        record = load_json(record_path, PlanRecord)
        plan = plan_path.read_bytes()
    except (FormatError, OSError) as error:
        logger.warning("the cached plan %s cannot be read and is built again (%s)", plan_path, error)
        return None
    if record.key != key or record.plan_sha256 != hashlib.sha256(plan).hexdigest():
        logger.warning("the cached plan %s is not what its record says and is built again", plan_path)
        return None
    with contextlib.suppress(OSError):  # of a folder that can only be read
        os.utime(record_path)  # was used now
    return plan


def _prune(folder: Path) -> None:
    """Remove plans and kernel times beyond what is to be kept, those that were not used for longest first."""
    kept_bytes = 0
    for place, record_path in enumerate(_newest_first(folder, "*.json")):
        with contextlib.suppress(OSError):
            kept_bytes += record_path.with_suffix(".plan").stat().st_size
        if place and (place >= MOST_PLANS or kept_bytes > MOST_BYTES):
            logger.info("a plan that was not used for long is removed: %s", record_path)
            for path in (record_path, record_path.with_suffix(".plan")):  # without its record, a plan is none
                _remove(path)
            remove_if_free(record_path.with_suffix(".lock"))
    for path in _newest_first(folder, "*.timing")[MOST_TIMINGS:]:
        _remove(path)


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    times = {}
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another process removes it at this moment
            times[path] = path.stat().st_mtime_ns
    return sorted(times, key=lambda path: times[path], reverse=True)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _remove_leftovers(folder: Path, name: str) -> None:
    """Files of this key that a killed build left."""
    for path in (*folder.glob(f"{name}.plan*"), *folder.glob(f"{name}.json*")):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Nobody else builds or removes this plan meanwhile; waits for those who do."""
    with contextlib.ExitStack() as holding:
        try:
            holding.enter_context(locked(folder / f"{name}.lock", waiting_for="building this plan"))
        except OSError as error:
            raise OutputError(
                f"the build cache cannot be written ({error.strerror})",
                where=folder,
                hint=f"Set {FOLDER_VARIABLE} to a folder that can",
            ) from None
        yield
