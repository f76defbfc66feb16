"""The NPU itself: which Rockchip chip this computer has, and a session on it by rknn-toolkit-lite2."""

from __future__ import annotations

import importlib
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeyolo.backends._batches import run_batches
from edgeyolo.backends.rknn.options import CHIPS, CORE_MASKS, Options
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.packages import import_package
from edgeyolo.spec.target import list_targets, load_target

_COMPATIBLE = Path("/proc/device-tree/compatible")
_DRIVER = Path("/sys/module/rknpu/version")
_LIBRARIES = ("/usr/lib/librknnrt.so", "/usr/lib64/librknnrt.so", "/usr/lib/aarch64-linux-gnu/librknnrt.so")


def find_chip() -> str:
    """The Rockchip chip of this computer, such as "rk3588"; "" where there is none that has an NPU of this kind."""
    names = _COMPATIBLE.read_bytes().decode(errors="replace").split("\0") if _COMPATIBLE.is_file() else []
    found = {match[1] for name in names if (match := re.fullmatch(r"rockchip,(r[kv]\d{4}b?)s?", name))}
    return next((chip for chip in CHIPS if chip in found), "")


def find_driver() -> str:
    """Version of the NPU's driver, "" where it is not told."""
    return _DRIVER.read_text().strip() if _DRIVER.is_file() else ""


def find_library() -> str:
    """Path of librknnrt.so, "" where it is in none of the usual places."""
    return next((path for path in _LIBRARIES if Path(path).is_file()), "")


def check_chip(options: Options, here: str) -> None:
    """Raise BackendError, naming targets that would do, where a bundle was compiled for another chip."""
    if here in CHIPS[options.chip]:
        return
    targets = {name: load_target(name) for name in list_targets()}
    fitting = [
        name
        for name, target in targets.items()
        if target.engine == "rknn" and here in CHIPS.get(str(target.engine_options.get("chip")), ())
    ]
    raise BackendError(
        f"the bundle is for the NPU of an {options.chip}, and this board has an {here}",
        hint=f"Deploy for this board: --target {' or '.join(fitting)}" if fitting else "Deploy for this board's CPU",
    )


class NpuSession:
    """Runs a .rknn file on the NPU, as many pictures at a time as it was compiled for."""

    def __init__(self, path: Path, options: Options, spec: ModelSpec) -> None:
        import_package("rknnlite", needed_for="running bundles on a Rockchip NPU", extra="rknn")
        try:
            kind: Any = importlib.import_module("rknnlite.api").RKNNLite
        except ImportError as error:
            raise BackendError(f"'rknnlite' does not import ({error})", hint="Reinstall it") from None
        self._outputs, self._input, self._batch = spec.output_count, spec.input, spec.input.batch
        self._lock = threading.Lock()
        self._network = kind()
        if self._network.load_rknn(str(path)) != 0:
            raise BackendError("rknn-toolkit-lite2 cannot read it, and has said why", where=path)
        if self._network.init_runtime(core_mask=CORE_MASKS[options.cores]) != 0:
            raise BackendError(
                "the NPU does not take it; rknn-toolkit-lite2 has said why",
                where=path,
                hint="Its driver and librknnrt.so must not be older than the toolkit of the bundle: edgeyolo doctor",
            )

    def run(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """(B, 3, H, W) float32 -> one (B, C, h, w) float32 array per raw head map, map_0 first."""
        with self._lock:
            if self._network is None:
                raise BackendError("the session is closed", hint="Open the artefact again")
            return run_batches(self._run_part, images, self._input, self._batch)

    def _run_part(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        given = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # (B, H, W, 3), as the NPU reads it
        maps = self._network.inference(inputs=[given], data_format=["nhwc"])
        if maps is None or len(maps) != self._outputs:
            raise BackendError("the NPU gave no result; rknn-toolkit-lite2 has said why")
        return [np.asarray(map_, np.float32) for map_ in maps]

    def close(self) -> None:
        """Give the NPU back."""
        with self._lock:
            if self._network is not None:
                self._network.release()
            self._network = None
