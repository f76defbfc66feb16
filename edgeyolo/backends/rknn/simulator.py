"""The NPU as Rockchip's toolkit simulates it, on the computer that deploys."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeyolo.backends._batches import run_batches
from edgeyolo.backends.rknn.options import Options
from edgeyolo.backends.rknn.process import BUILD_LIMIT_S, RUN_LIMIT_S, ToolkitProcess
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import ModelSpec


class SimulatorSession:
    """Runs the graph that the .rknn file was compiled from, batch by batch, in the toolkit's own process.

    The simulator opens no .rknn file: it compiles the graph again, as the bundle was, and runs what it has then.
    """

    def __init__(self, toolkit: Path, onnx_path: Path, options: Options, spec: ModelSpec) -> None:
        self._input, self._batch = spec.input, spec.input.batch
        self._lock = threading.Lock()
        self.process = ToolkitProcess(toolkit)
        shape, path = [self._batch[1], 3, *spec.input.image_hw], str(onnx_path.resolve())
        try:
            self.process.ask("open", limit_s=BUILD_LIMIT_S, onnx=path, config=options.config(), shape=shape)
            found = len(self._run_part(np.zeros(shape, np.float32)))
            if found != spec.output_count:
                raise BackendError(f"gives {found} maps, and the model {spec.output_count}", where=onnx_path)
        except BaseException:
            self.process.close()
            raise

    def run(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """(B, 3, H, W) float32 -> one (B, C, h, w) float32 array per raw head map, map_0 first."""
        with self._lock:
            return run_batches(self._run_part, images, self._input, self._batch)

    def _run_part(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        return self.process.ask("run", limit_s=RUN_LIMIT_S, image=np.ascontiguousarray(images))[1]

    def close(self) -> None:
        """End the toolkit's process."""
        self.process.close()
