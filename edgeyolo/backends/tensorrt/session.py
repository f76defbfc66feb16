"""Run a plan: pinned memory, one stream, and a CUDA graph that replays copy, network and copy in one launch.

Where CPU and GPU share their memory, both copies can be left out.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeyolo.backends._batches import run_batches
from edgeyolo.backends.tensorrt.adapter import TensorRt, make_profiler
from edgeyolo.backends.tensorrt.cuda import Buffer, Cuda, allocated
from edgeyolo.backends.tensorrt.options import Options
from edgeyolo.spec.detections import Pixels
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.tensor import INPUT_NAME, ROW_NAMES, output_names

logger = logging.getLogger(__name__)


class TensorRtSession:
    """An engine with its buffers. A batch larger than the plan's is run in several calls; threads take turns.

    Args:
        engine: deserialized, of TensorRT 8.5 or later.
        outputs: names in the order that `run` returns.

    Raises:
        BackendError: the engine has other tensors than these, or another image size.
    """

    def __init__(
        self, cuda: Cuda, trt: TensorRt, engine: Any, outputs: list[str], spec: InputSpec, options: Options
    ) -> None:
        self._cuda, self._trt, self._input = cuda, trt, spec
        self._outputs = outputs
        shape = _check_tensors(trt, engine, outputs, spec)
        self._largest = options.max_batch if shape[0] == -1 else shape[0]
        self._least = 1 if shape[0] == -1 else shape[0]
        self._use_graph = options.cuda_graph
        self._is_shared = options.zero_copy and cuda.shares_memory
        if options.zero_copy and not cuda.shares_memory:
            logger.warning("%s has memory of its own: pictures are copied to it, whatever zero_copy says", cuda.name)
        self._graph: Any = None
        self._batch = 0  # that the context, and with it the graph, is set up for
        self._lock = threading.Lock()
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self._engine = engine
            self._context: Any = engine.create_execution_context()
            if self._context is None:
                raise BackendError("TensorRT gives no execution context", hint="Close other programs that use the GPU")
            self._stream = cuda.call("cuStreamCreate", 0)
            opening.callback(cuda.call, "cuStreamDestroy", self._stream)
            self._buffers = {name: opening.enter_context(self._allocate(name)) for name in (INPUT_NAME, *outputs)}
            for name, buffer in self._buffers.items():
                self._context.set_tensor_address(name, buffer.device)
            self._closing = opening.pop_all()

    def run(self, images: Pixels) -> list[npt.NDArray[np.float32]]:
        """Inputs -> one array per output, map_0 first; `spec.model.GraphDecode`'s where it is so."""
        with self._lock:
            if self._context is None:
                raise BackendError("the session is closed", hint="Open the artefact again")
            self._cuda.use()
            return run_batches(self._run_once, images, self._input, (self._least, self._largest))

    def profile(self, images: Pixels, runs: int) -> tuple[str, dict[str, list[float]]]:
        """What the engine's inspector says of its layers, and the milliseconds of each in so many runs.

        Args:
            images: as many as the plan takes at once.
        """
        with self._lock:
            self._cuda.use()
            profiler = make_profiler(self._trt.module)
            self._use_graph = False  # a replayed graph has no layers to time
            self._forget_graph()
            self._run_once(images)
            self._context.profiler = profiler
            for _ in range(runs):
                self._run_once(images)
            kind = self._trt.module.LayerInformationFormat.ONELINE
            return self._engine.create_engine_inspector().get_engine_information(kind), profiler.times_ms

    def close(self) -> None:
        """Give the GPU's memory back."""
        with self._lock:
            if self._context is None:
                return
            self._cuda.use()
            self._forget_graph()
            self._context = self._engine = None
            self._closing.close()

    def _allocate(self, name: str) -> Any:
        shape = tuple(self._engine.get_tensor_shape(name))
        kind = self._trt.module.nptype(self._engine.get_tensor_dtype(name))
        return allocated(self._cuda, name, (self._largest, *shape[1:]), kind, is_shared=self._is_shared)

    def _run_once(self, images: Pixels) -> list[npt.NDArray[np.float32]]:
        batch = len(images)
        np.copyto(self._buffers[INPUT_NAME].part(batch), images)
        is_repeated = batch == self._batch
        if not is_repeated:
            self._forget_graph()  # it holds only as long as its context stays as it was
            self._context.set_input_shape(INPUT_NAME, images.shape)
            self._batch = batch
        if self._graph is not None:
            self._cuda.call("cuGraphLaunch", self._graph, self._stream)
        else:
            self._enqueue(batch)
        self._cuda.call("cuStreamSynchronize", self._stream)
        results = [self._buffers[name].part(batch).copy() for name in self._outputs]
        if self._use_graph and self._graph is None and is_repeated:  # sizes that alternate would record it for nothing
            self._record(batch)
        return results

    def _enqueue(self, batch: int) -> None:
        """Copy in, run, copy out, all in the stream; what is shared stays where it is."""
        entry = self._buffers[INPUT_NAME]
        if not entry.is_shared:
            self._cuda.call("cuMemcpyHtoDAsync", entry.device, entry.host, entry.part(batch).nbytes, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError("TensorRT failed to run the plan", hint="Its own words are above. Run: edgeyolo doctor")
        for name in self._outputs:
            self._copy_out(self._buffers[name], batch)

    def _copy_out(self, buffer: Buffer, batch: int) -> None:
        if buffer.is_shared:
            return
        self._cuda.call("cuMemcpyDtoHAsync", buffer.host, buffer.device, buffer.part(batch).nbytes, self._stream)

    def _record(self, batch: int) -> None:
        try:
            self._graph = self._cuda.capture(self._stream, lambda: self._enqueue(batch))
        except BackendError as error:
            logger.warning("runs without a CUDA graph (%s)", error)
            self._use_graph = False

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._cuda.call("cuGraphExecDestroy", self._graph)
        self._graph = None


def _check_tensors(trt: TensorRt, engine: Any, outputs: list[str], spec: InputSpec) -> tuple[int, ...]:
    """The input's shape, the first axis -1 where any number of pictures goes."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    is_input = {name: engine.get_tensor_mode(name) == trt.module.TensorIOMode.INPUT for name in names}
    found = sorted(name for name in names if not is_input[name])
    if [name for name in names if is_input[name]] != [INPUT_NAME] or found != sorted(outputs):
        raise BackendError(f"the plan gives {found}, and {sorted(outputs)} were expected", hint="Deploy again")
    shape = tuple(engine.get_tensor_shape(INPUT_NAME))
    if shape[1:] != spec.shape:
        raise BackendError(f"the plan takes images of shape {shape}, and the manifest says {spec.shape}")
    return shape


def session_outputs(output_count: int, graph_candidates: int) -> list[str]:
    """Names of the outputs in the order that the runtime reads them."""
    return list(ROW_NAMES) if graph_candidates else output_names(output_count)
