"""The few calls of the CUDA driver that running a plan needs, through `cuda-python`; no torch, no pycuda.

The driver's interface, not the runtime's: it works with any driver, whatever CUDA version cuda-python was made for.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.errors import BackendError, MissingPackageError
from edgeyolo.spec.packages import import_package

logger = logging.getLogger(__name__)

_DEVICE_MAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP: host memory that the GPU reads and writes itself
_INSTALL = 'pip install "cuda-python>=12,<13" on JetPack 6, pip install "cuda-python>=13" on JetPack 7 and desktops'


class Cuda:
    """The first GPU of this machine, its primary context current in the thread that makes it.

    The context stays until the process ends: an engine may outlive its session, and must not outlive the context.

    Attributes:
        name: as the driver gives it.
        compute_capability: such as "8.7".
        shares_memory: it has none of its own, as on a Jetson.

    Raises:
        MissingPackageError: no cuda-python. BackendError: no driver, or no GPU.
    """

    def __init__(self) -> None:
        self._driver = _import_driver()
        try:
            self.call("cuInit", 0)
        except RuntimeError as error:  # of cuda-python, where there is no libcuda
            raise BackendError(f"there is no NVIDIA driver here ({error})", hint="Run: edgeyolo doctor") from None
        if self.call("cuDeviceGetCount") < 1:
            raise BackendError("the NVIDIA driver sees no GPU", hint="Run: edgeyolo doctor")
        device = self.call("cuDeviceGet", 0)
        self.name = self.call("cuDeviceGetName", 128, device).split(b"\0")[0].decode()
        kinds = self._driver.CUdevice_attribute
        major, minor = (
            self.call("cuDeviceGetAttribute", getattr(kinds, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}"), device)
            for part in ("MAJOR", "MINOR")
        )
        self.compute_capability = f"{major}.{minor}"
        self.shares_memory = bool(self.call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_INTEGRATED, device))
        self._context = self.call("cuDevicePrimaryCtxRetain", device)
        self.call("cuCtxSetCurrent", self._context)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call the driver.

        Raises:
            BackendError: it returns an error.
        """
        code, *results = getattr(self._driver, name)(*arguments)
        if int(code) != 0:
            what = getattr(code, "name", str(code))
            raise BackendError(f"CUDA {name} failed with {what}", hint="Run: edgeyolo doctor")
        return results[0] if results else None

    def use(self) -> None:
        """Make the context current in the calling thread."""
        self.call("cuCtxSetCurrent", self._context)

    def driver_version(self) -> str:
        """CUDA version that the driver supports, such as "12.6"."""
        version = int(self.call("cuDriverGetVersion"))
        return f"{version // 1000}.{version % 1000 // 10}"

    def capture(self, stream: Any, run: Callable[[], None]) -> Any:
        """Record what `run` puts into the stream, to be replayed by `cuGraphLaunch`.

        Raises:
            BackendError: something in it cannot be recorded.
        """
        self.call("cuStreamBeginCapture", stream, self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            run()
        except BaseException:  # the stream cannot be used otherwise before the recording has ended
            with contextlib.suppress(BackendError):
                self.call("cuGraphDestroy", self.call("cuStreamEndCapture", stream))
            raise
        graph = self.call("cuStreamEndCapture", stream)
        try:
            return self.call("cuGraphInstantiate", graph, 0)
        finally:
            self.call("cuGraphDestroy", graph)


@dataclass(frozen=True)
class Buffer:
    """Memory of one input or output: pinned on the host, and its twin on the GPU, or the same memory for both.

    Attributes:
        name: of the tensor.
        array: view of the host memory, of the tensor's largest shape.
        host, device: addresses.
        is_shared: both are of the same memory, and nothing has to be copied.
    """

    name: str
    array: npt.NDArray[Any]
    host: int
    device: int
    is_shared: bool

    def part(self, batch: int) -> npt.NDArray[Any]:
        """The first pictures of the host memory."""
        return self.array[:batch]


@contextlib.contextmanager
def allocated(
    cuda: Cuda, name: str, shape: tuple[int, ...], kind: npt.DTypeLike, *, is_shared: bool = False
) -> Iterator[Buffer]:
    """A buffer that is given back at the end of the block."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    with contextlib.ExitStack() as stack:
        host = int(cuda.call("cuMemHostAlloc", size, _DEVICE_MAP if is_shared else 0))
        stack.callback(cuda.call, "cuMemFreeHost", host)
        if is_shared:
            device = cuda.call("cuMemHostGetDevicePointer", host, 0)
        else:
            device = cuda.call("cuMemAlloc", size)
            stack.callback(cuda.call, "cuMemFree", device)
        memory = (ctypes.c_byte * size).from_address(host)
        array = np.frombuffer(memoryview(memory), dtype=kind).reshape(shape)
        yield Buffer(name, array, host, int(device), is_shared)


def _import_driver() -> Any:
    """`cuda.bindings.driver` (cuda-python 12.8 and later), or `cuda.cuda`, its older name."""
    for name in ("cuda.bindings.driver", "cuda.cuda"):
        with contextlib.suppress(MissingPackageError, BackendError):
            return import_package(name, needed_for="running TensorRT plans", extra="tensorrt")
    raise MissingPackageError("cuda-python", needed_for="running TensorRT plans", install=_INSTALL)
