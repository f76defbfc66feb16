"""Opening an artefact and running it, without a GPU: the driver and the engine are stand-ins whose memory is real.

They check what a GPU would not forgive: memory given back, graphs replayed on the context they were recorded with.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from any_spec import any_spec
from threads import quickly_switching

from edgeyolo.backends import build, open_artefact, tensorrt
from edgeyolo.backends.tensorrt import cuda as tensorrt_cuda
from edgeyolo.backends.tensorrt.adapter import TensorRt
from edgeyolo.backends.tensorrt.options import make_options
from edgeyolo.backends.tensorrt.session import TensorRtSession
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.target import Target

HW = (12, 20)
SPEC = any_spec(HW)
Call = Callable[[], None]


class Driver:
    """CUDA's driver in host memory: what is in the stream runs at once, or is recorded."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=0,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=1,
        CU_DEVICE_ATTRIBUTE_INTEGRATED=2,
    )
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self) -> None:
        self.name = b"Stand-in"
        self.alive: dict[int, Any] = {}  # memory, streams and graphs that were not given back
        self.recording: list[Call] | None = None
        self.can_record = True
        self.launches = self.recordings = self.graphs = self.copies = 0
        self.is_integrated = False
        self.mapped: set[int] = set()

    def put(self, call: Call) -> None:
        call() if self.recording is None else self.recording.append(call)

    def keep(self, thing: Any) -> tuple[int, int]:
        address = ctypes.addressof(thing) if isinstance(thing, ctypes.Array) else 1000 + len(self.alive)
        self.alive[address] = thing
        return 0, address

    def drop(self, address: int) -> tuple[int]:
        del self.alive[address]
        return (0,)

    cuMemFree = cuMemFreeHost = cuStreamDestroy = cuGraphExecDestroy = drop

    def cuInit(self, _: int) -> tuple[int]:
        return (0,)

    def cuDeviceGetCount(self) -> tuple[int, int]:
        return 0, 1

    def cuDeviceGet(self, index: int) -> tuple[int, int]:
        return 0, index

    def cuDeviceGetName(self, length: int, _: int) -> tuple[int, bytes]:
        return 0, self.name.ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attribute: int, _: int) -> tuple[int, int]:
        return 0, (8, 7, self.is_integrated)[attribute]

    def cuDevicePrimaryCtxRetain(self, _: int) -> tuple[int, str]:
        return 0, "context"

    def cuCtxSetCurrent(self, _: str) -> tuple[int]:
        return (0,)

    def cuMemHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        code, address = self.keep(ctypes.create_string_buffer(size))
        if flags == 2:
            self.mapped.add(address)
        return code, address

    def cuMemHostGetDevicePointer(self, host: int, _: int) -> tuple[int, int]:
        return (0, host) if host in self.mapped else (1, 0)

    def cuMemAlloc(self, size: int) -> tuple[int, int]:
        return self.keep(ctypes.create_string_buffer(size))

    def cuStreamCreate(self, _: int) -> tuple[int, int]:
        return self.keep("stream")

    def cuStreamSynchronize(self, _: int) -> tuple[int]:
        assert self.recording is None
        return (0,)

    def cuMemcpyHtoDAsync(self, to: int, source: int, size: int, _: int) -> tuple[int]:
        self.copies += 1
        self.put(lambda: ctypes.memmove(to, source, size))
        return (0,)

    cuMemcpyDtoHAsync = cuMemcpyHtoDAsync

    def cuStreamBeginCapture(self, _stream: int, _mode: int) -> tuple[int]:
        if not self.can_record:
            return (900,)
        self.recording = []
        self.recordings += 1
        return (0,)

    def cuStreamEndCapture(self, _: int) -> tuple[int, Any]:
        graph, self.recording = self.recording, None
        self.graphs += 1
        return 0, graph

    def cuGraphInstantiate(self, graph: list[Call], _: int) -> tuple[int, int]:
        return self.keep(list(graph))

    def cuGraphDestroy(self, _: list[Call]) -> tuple[int]:
        self.graphs -= 1
        return (0,)

    def cuGraphLaunch(self, graph: int, _: int) -> tuple[int]:
        self.launches += 1
        for call in self.alive[graph]:
            call()
        return (0,)


class Engine:
    """Two outputs: the mean of each picture's channels, and its largest value; `batch` -1 for an open one."""

    def __init__(self, driver: Driver, batch: int = -1, names: tuple[str, ...] = ("map_1", "images", "map_0")) -> None:
        self.driver, self.batch, self.names = driver, batch, names
        self.num_io_tensors = len(names)
        self.shapes = {"images": (batch, 3, *HW), "map_0": (batch, 1, *HW), "map_1": (batch, 1, 1, 1)}
        self.addresses: dict[str, int] = {}
        self.state = 0  # every change of the context makes another
        self.current = batch
        self.profiler: Any = None

    def create_engine_inspector(self) -> Inspector:
        return Inspector()

    def get_tensor_name(self, i: int) -> str:
        return self.names[i]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name == "images" else "OUTPUT"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, _: str) -> str:
        return "FLOAT"

    def create_execution_context(self) -> Engine:
        return self

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address
        self.state += 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert name == "images"
        self.current = shape[0]
        self.state += 1

    def execute_async_v3(self, _: int) -> bool:
        recorded_with = self.state

        def compute() -> None:
            assert self.state == recorded_with, "the context has changed since the graph was recorded"
            images = self.view("images")
            self.view("map_0")[:] = images.mean(1, keepdims=True)
            self.view("map_1")[:] = images.max((1, 2, 3), keepdims=True)
            if self.profiler is not None:
                self.profiler.report_layer_time("mean", 0.5)

        self.driver.put(compute)
        return True

    def view(self, name: str) -> np.ndarray:
        shape = (self.current, *self.shapes[name][1:])
        memory = (ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])
        return np.frombuffer(memory, np.float32).reshape(shape)


class Inspector:
    """What a real engine makes: words about its layers."""

    def get_engine_information(self, kind: str) -> str:
        return f"{kind}: mean, max"


class Profiler:
    """As TensorRT's, which calls the subclass."""


MODULE = SimpleNamespace(
    IProfiler=Profiler,
    LayerInformationFormat=SimpleNamespace(ONELINE="one line each"),
    nptype=lambda _: np.float32,
    TensorIOMode=SimpleNamespace(INPUT="INPUT"),
)


class StandIn(TensorRt):
    """A TensorRT that builds a plan of words and takes only those of its own."""

    builds: list[dict[str, Any]]
    makes: bytes
    takes: bytes

    def parse(self, raw: bytes, options: Any) -> Any:
        def compile(options: Any, precision: str, **others: Any) -> tuple[bytes, bytes]:
            self.builds.append(others)
            return self.makes, b"times"

        return SimpleNamespace(compile=compile)

    def deserialize(self, plan: bytes, options: Any) -> Any:
        return (
            Engine(tensorrt_cuda._import_driver(), batch=1, names=("images", "map_0")) if plan == self.takes else None
        )


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(tensorrt_cuda, "_import_driver", lambda: made)
    return made


@pytest.fixture
def stand_in(driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    made = StandIn("tensorrt", MODULE, "10.3.0")
    for name, value in (("builds", []), ("makes", b"good"), ("takes", b"good")):
        object.__setattr__(made, name, value)
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda package: made)
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / "cache"))
    return made


def make_session(driver: Driver, engine: Engine, **options: Any) -> TensorRtSession:
    cuda = tensorrt_cuda.Cuda()
    trt = TensorRt("tensorrt", MODULE, "10.3.0")
    return TensorRtSession(cuda, trt, engine, ["map_0", "map_1"], InputSpec(image_hw=HW), make_options(options))


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, *HW)).astype(np.float32)


def assert_right(session: TensorRtSession, images: np.ndarray) -> None:
    one, two = session.run(images)
    np.testing.assert_allclose(one, images.mean(1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(two, images.max((1, 2, 3), keepdims=True), rtol=1e-6)


def test_batches_of_any_size_with_and_without_a_graph(driver: Driver) -> None:
    for cuda_graph in (True, False):
        driver.launches = 0
        session = make_session(driver, Engine(driver), max_batch=4, cuda_graph=cuda_graph)
        for seed, count in enumerate((1, 1, 1, 1, 4, 4, 4, 2, 1, 9, 16, 1)):
            assert_right(session, pictures(count, seed))
        assert (driver.launches > 3) == cuda_graph
        session.close()
        session.close()
        assert not driver.alive
        with pytest.raises(BackendError, match="closed"):
            session.run(pictures(1))


@pytest.mark.parametrize("is_integrated", [True, False])
def test_zero_copy_is_for_a_gpu_without_memory_of_its_own(
    driver: Driver, caplog: pytest.LogCaptureFixture, is_integrated: bool
) -> None:
    driver.is_integrated = is_integrated
    session = make_session(driver, Engine(driver), max_batch=4, zero_copy=True)
    for seed, count in enumerate((1, 1, 1, 4, 4, 4, 9, 2)):
        assert_right(session, pictures(count, seed))
    session.close()
    assert not driver.alive
    assert (driver.copies == 0) == is_integrated == bool(driver.mapped)
    assert ("Stand-in has memory of its own" in caplog.text) != is_integrated


def test_nothing_is_recorded_for_sizes_that_alternate(driver: Driver) -> None:
    session = make_session(driver, Engine(driver), max_batch=4)
    for seed in range(6):
        assert_right(session, pictures(5, seed))
    assert (driver.recordings, driver.launches) == (0, 0)
    for seed in range(4):
        assert_right(session, pictures(4, seed))
    assert (driver.recordings, driver.launches) == (1, 2)


def test_what_fails_while_it_is_recorded_leaves_no_graph(driver: Driver) -> None:
    def fail() -> None:
        raise BackendError("stopped")

    with pytest.raises(BackendError, match="stopped"):
        tensorrt_cuda.Cuda().capture(0, fail)
    assert driver.graphs == 0
    assert driver.recording is None


def test_eight_threads_share_a_session(driver: Driver) -> None:
    session = make_session(driver, Engine(driver), max_batch=4)
    batches = [pictures(count, seed) for seed, count in enumerate((1, 4, 2, 5, 1, 3, 4, 1))]

    def run(images: np.ndarray) -> None:
        for _ in range(20):
            assert_right(session, images)

    with quickly_switching(), ThreadPoolExecutor(len(batches)) as pool:
        list(pool.map(run, batches))


def test_layers_are_timed_one_by_one_and_no_graph_is_replayed(driver: Driver) -> None:
    session = make_session(driver, Engine(driver), max_batch=4)
    images = np.ones((2, 3, *HW), np.float32)
    for _ in range(3):
        session.run(images)
    launches = driver.launches
    listed, times_ms = session.profile(images, 5)
    assert (listed, times_ms) == ("one line each: mean, max", {"mean": [0.5] * 5})
    assert driver.launches == launches > 0
    session.close()
    assert not driver.alive


def test_a_fixed_batch_is_filled_up(driver: Driver) -> None:
    session = make_session(driver, Engine(driver, batch=2))
    for seed, count in enumerate((2, 6, 3, 1)):
        assert_right(session, pictures(count, seed))
    for wrong in (pictures(2)[:, :, 1:], pictures(2).astype(np.float64)):
        with pytest.raises(BackendError, match="images are"):
            session.run(wrong)


def test_what_cannot_be_recorded_runs_without_a_graph(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    driver.can_record = False
    session = make_session(driver, Engine(driver, batch=1))
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            assert_right(session, pictures(1, seed))
    assert caplog.text.count("runs without a CUDA graph (CUDA cuStreamBeginCapture failed") == 1


def test_an_engine_of_something_else_is_refused_and_leaves_nothing(driver: Driver) -> None:
    with pytest.raises(BackendError, match=r"gives \['map_0'\], and \['map_0', 'map_1'\] were expected"):
        make_session(driver, Engine(driver, names=("images", "map_0")))
    engine = Engine(driver)
    engine.shapes["images"] = (-1, 3, 64, 64)
    with pytest.raises(BackendError, match="manifest says"):
        make_session(driver, engine)
    engine = Engine(driver)
    engine.create_execution_context = lambda: None  # type: ignore[method-assign,return-value,assignment]
    with pytest.raises(BackendError, match="no execution context"):
        make_session(driver, engine)
    assert not driver.alive


@pytest.fixture
def artefact(one_layer: Any, tmp_path: Path) -> tuple[Path, Artefact]:
    path, _ = one_layer(opset=19, image_hw=HW).write(tmp_path)
    target = Target(title="test", engine="tensorrt", precisions=("fp16",), engine_versions=">=10")
    return tmp_path / "out", build(path, SPEC, None, target, tmp_path / "out", precision="fp16")


def open_once(artefact: tuple[Path, Artefact]) -> None:
    with contextlib.closing(open_artefact(*artefact, SPEC)):
        pass


def test_a_plan_is_built_once_and_again_for_another_gpu_or_version(
    artefact: tuple[Path, Artefact], stand_in: StandIn, driver: Driver
) -> None:
    for _ in range(3):
        open_once(artefact)
    assert len(stand_in.builds) == 1
    assert stand_in.builds[0]["timing_cache"] == b""
    driver.name = b"Another"
    open_once(artefact)
    object.__setattr__(stand_in, "version", "10.4.0")
    open_once(artefact)
    assert len(stand_in.builds) == 3
    changed = msgspec.structs.replace(artefact[1], options={**artefact[1].options, "builder_level": 5})
    open_once((artefact[0], changed))
    assert stand_in.builds[3]["timing_cache"] == b"times"  # of the same GPU and version
    unchanged = msgspec.structs.replace(artefact[1], options={**artefact[1].options, "cuda_graph": False})
    open_once((artefact[0], unchanged))
    assert len(stand_in.builds) == 4


def test_a_plan_that_tensorrt_refuses_is_built_again_once(
    artefact: tuple[Path, Artefact], stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    object.__setattr__(stand_in, "takes", b"of another architecture")
    object.__setattr__(stand_in, "makes", b"of another architecture")
    open_once(artefact)
    for name in ("takes", "makes"):
        object.__setattr__(stand_in, name, b"good")
    with caplog.at_level(logging.WARNING):
        open_once(artefact)
    assert "refuses the cached plan, which is built again" in caplog.text
    assert len(stand_in.builds) == 2
    open_once(artefact)
    assert len(stand_in.builds) == 2
    object.__setattr__(stand_in, "takes", b"nothing")
    with pytest.raises(BackendError, match=r"refuses the plan it has just built.*edgeyolo doctor"):
        open_once(artefact)


def test_a_version_that_the_target_does_not_take_says_so(artefact: tuple[Path, Artefact], stand_in: StandIn) -> None:
    object.__setattr__(stand_in, "version", "8.6.2")
    with pytest.raises(BackendError, match=r"tensorrt 8.6.2 is installed, and the bundle was deployed for >=10"):
        open_once(artefact)
    assert not stand_in.builds


def test_ranges_for_dla_are_part_of_what_a_plan_is(one_layer: Any, stand_in: StandIn, tmp_path: Path) -> None:
    """The graph is the same for all scales there: other scales are another plan."""
    target = Target(
        title="test",
        engine="tensorrt",
        precisions=("int8",),
        dla_cores=1,
        engine_options={"strongly_typed": False, "dla_core": 0},
    )
    digests = set()
    for step in (0.01, 0.02):
        path, qparams = one_layer(opset=19, image_hw=HW, step=step).write(tmp_path)
        out = tmp_path / str(step)
        artefact = build(path, SPEC, qparams, target, out, precision="int8")
        digests.add(hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest())
        for _ in range(2):
            open_once((out, artefact))
        assert stand_in.builds[-1]["implicit"].ranges["images"] == pytest.approx(127 * step)
    assert len(digests) == 1
    assert len(stand_in.builds) == 2
