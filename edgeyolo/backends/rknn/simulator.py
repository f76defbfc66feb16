"""The NPU as Rockchip's toolkit simulates it, on the computer that deploys."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeyolo.backends.engine import check_images
from edgeyolo.backends.rknn.options import Options
from edgeyolo.backends.rknn.process import BUILD_LIMIT_S, RUN_LIMIT_S, ToolkitProcess
from edgeyolo.spec.errors import BackendError


class SimulatorSession:
    """Runs the graph that the .rknn file was compiled from, one picture at a time, in the toolkit's own process.

    The simulator opens no .rknn file: it compiles the graph again, as the bundle was, and runs what it has then.
    """

    def __init__(
        self, toolkit: Path, onnx_path: Path, options: Options, outputs: int, image_hw: tuple[int, int]
    ) -> None:
        self._outputs, self._image_hw = outputs, image_hw
        self._lock = threading.Lock()
        self.process = ToolkitProcess(toolkit)
        shape, path = [1, 3, *image_hw], str(onnx_path.resolve())
        try:
            self.process.ask("open", limit_s=BUILD_LIMIT_S, onnx=path, config=options.config(), shape=shape)
            found = len(self._run_one(np.zeros(shape, np.float32)))
            if found != outputs:
                raise BackendError(f"gives {found} maps, and the model {outputs}", where=onnx_path)
        except BaseException:
            self.process.close()
            raise

    def run(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """(B, 3, H, W) float32 -> one (B, C, h, w) float32 array per raw head map, map_0 first."""
        check_images(images, self._image_hw)
        if len(images) == 0:
            raise BackendError("no picture is given")
        with self._lock:
            runs = [self._run_one(image[None]) for image in images]
        return [np.concatenate(maps) for maps in zip(*runs, strict=True)]

    def _run_one(self, image: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        return self.process.ask("run", limit_s=RUN_LIMIT_S, image=np.ascontiguousarray(image))[1]

    def close(self) -> None:
        """End the toolkit's process."""
        self.process.close()
