"""Plans built on this machine, one file each: built once, never trusted when anything they depend on has changed.

KEY.plan is the raw plan, as trtexec or C++ read it; KEY.json says what it is and the sha256 it must have. The plan is
written first, the record last, each renamed into place, under a lock that dies with its process: whatever is
interrupted, there is a valid pair or none.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.cache import FOLDER_VARIABLE, cache_folder
from edgeyolo.spec.errors import FormatError, OutputError
from edgeyolo.spec.strict import encode_json, load_json
from edgeyolo.spec.target import Option, Precision

logger = logging.getLogger(__name__)


class PlanKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a plan depends on.

    Attributes:
        onnx_sha256: of the graph it is built from.
        qparams_sha256: of the scales that go in beside the graph (INT8 on DLA), "" where they are in it.
        gpu: name, as the driver gives it.
        compute_capability: such as "8.7".
        package, version: of TensorRT.
        options: of the build.
    """

    onnx_sha256: str
    qparams_sha256: str = ""
    gpu: str
    compute_capability: str
    package: str
    version: str
    precision: Precision
    options: dict[str, Option]

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
    try:
        lock = _locked(folder / f"{name}.lock")
    except OutputError:
        if (found := _read(folder, name, key)) is None:
            raise
        return found
    with lock:
        if (found := _read(folder, name, key)) is not None:
            return found
        _remove_leftovers(folder, name)
        plan = build()
        record = PlanRecord(key=key, plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan))
        write_file(folder / f"{name}.plan", plan)
        write_file(folder / f"{name}.json", encode_json(record))
        return plan


def forget_plan(key: PlanKey, *, folder: Path | None = None) -> None:
    """Remove a plan that the engine refuses."""
    folder = folder or plan_folder()
    with _locked(folder / f"{key.digest()}.lock"):
        _remove_leftovers(folder, key.digest())


def read_timing_cache(key: PlanKey, *, folder: Path | None = None) -> bytes:
    """Kernel times of earlier builds with this TensorRT on this GPU, b"" where there are none."""
    path = _timing_path(key, folder or plan_folder())
    return path.read_bytes() if path.is_file() else b""


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
    return plan


def _remove_leftovers(folder: Path, name: str) -> None:
    """Files of this key that a killed build left."""
    for path in (*folder.glob(f"{name}.plan*"), *folder.glob(f"{name}.json*")):
        path.unlink(missing_ok=True)


def _locked(path: Path) -> BinaryIO:
    """A file that nobody else holds as long as it is open; waits for those who do."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process is building this plan; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError as error:
        raise OutputError(
            f"the build cache cannot be written ({error.strerror})",
            where=path.parent,
            hint=f"Set {FOLDER_VARIABLE} to a folder that can",
        ) from None
    return stream
