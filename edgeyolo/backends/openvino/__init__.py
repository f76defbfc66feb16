"""OpenVINO: the Q/DQ graph with unsigned activations, on x86 processors, and on Intel's integrated GPUs and NPUs.

Signed activations stand for the same numbers, and OpenVINO 2026.4 computes some convolutions of them wrongly. What the
graph does in float stays float32 on a processor, so that its maps are those of the reference; GPUs and NPUs compute it
in float16, their own format. Each caller gets an inference request of its own, so that threads can share a session.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeyolo.backends._artefact import artefact_file, check_option_names, read_artefact
from edgeyolo.backends._batches import batch_of_graph, refuse_open_batch, run_batches
from edgeyolo.backends._copies import CopiesSession, ThreadCopies
from edgeyolo.backends._onnx import check_signature, make_graph
from edgeyolo.backends._versions import check_version, list_version_problems
from edgeyolo.backends.engine import Engine, Finding, Session
from edgeyolo.backends.openvino.cache import compile_cached, compiled_folder, kept_networks
from edgeyolo.backends.openvino.layers import report_layers
from edgeyolo.graph.external_data import refuse_external_data
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.detections import Pixels
from edgeyolo.spec.errors import BackendError, MissingPackageError, UsageError
from edgeyolo.spec.layers import LayerReport
from edgeyolo.spec.machine import count_cores, processor_name, saturates_bytes
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.packages import Package, import_package
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.target import Option, Precision, Target
from edgeyolo.spec.tensor import output_names
from edgeyolo.spec.tuning import Choice

logger = logging.getLogger(__name__)

_FILE = "model.onnx"
_DEVICE, _PRECISION, _PINNING = "device", "INFERENCE_PRECISION_HINT", "ENABLE_CPU_PINNING"
# Properties of OpenVINO that a target may set, by their names there, and the device.
_OPTIONS = [_DEVICE, _PRECISION, _PINNING, "PERFORMANCE_HINT", "SCHEDULING_CORE_TYPE", "ENABLE_HYPER_THREADING"]
_COUNTERS = "PERF_COUNT"
_HALF: dict[str, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_DRIVERS = {
    "CPU": "Reinstall it: pip install --force-reinstall openvino",
    "GPU": "Install Intel's OpenCL driver (intel-opencl-icd) and add yourself to the group 'render'",
    "NPU": "Install Intel's NPU driver (linux-npu-driver); processors before Core Ultra have no NPU",
}


class OpenVinoEngine(Engine):
    """OpenVINO on processors, Intel's GPUs and NPUs."""

    name = "openvino"
    packages = (Package("openvino", "openvino", "engine: OpenVINO", "openvino"),)
    cpu_package = "openvino"
    takes_bytes = True
    lists_layers = True
    lacks = ("DeformConv",)

    def host_target(self) -> str:
        """This computer itself."""
        return "host-openvino"

    def probe(self, target: Target) -> list[str]:
        """What is missing here to build for `target`; its device is asked for when an artefact is opened."""
        try:
            return list_version_problems("openvino", _version(_import_engine()), target)
        except (MissingPackageError, BackendError) as error:
            return [str(error)]

    def build(
        self,
        onnx_path: Path,
        spec: ModelSpec,
        qparams: QParams | None,
        target: Target,
        out: Path,
        *,
        precision: Precision,
        progress: Progress = SILENT,
    ) -> Artefact:
        """Write `model.onnx`, with Q/DQ for int8, once OpenVINO has read it."""
        engine = _import_engine()
        check_version("openvino", _version(engine), target)
        _check_options(target.engine_options)
        floats = precision if precision != "int8" else "fp16" if self.is_half(target, precision) else "fp32"
        options = {_DEVICE: "CPU", _PRECISION: _HALF[floats], "PERFORMANCE_HINT": "LATENCY"} | target.engine_options
        if options[_DEVICE] == "NPU":
            refuse_open_batch(spec, engine="Intel's NPU")
        raw, layers = make_graph(onnx_path, spec, qparams, unsigned=True)
        with _explaining(onnx_path):
            model = _read_model(raw)
        _check_ports(model, spec, where=onnx_path)
        write_file(out / _FILE, raw)
        return Artefact(
            engine=self.name,
            engine_version=_version(engine),
            precision=precision,
            files={"onnx": _FILE},
            options=options,
            layers=layers,
        )

    def open(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, *, threads: int = 0, progress: Progress = SILENT
    ) -> Session:
        """Compile the graph for its device, or take it from the cache."""
        engine = _import_engine()
        _check_options(artefact.options)
        path = artefact_file(folder, artefact, "onnx")
        device, _ = _properties(artefact, 1)
        core = engine.Core()
        _check_device(core, device)

        def load(count: int) -> OpenVinoNetwork:
            raw = read_artefact(path)
            refuse_external_data(raw, where=path)
            _, properties = _properties(artefact, count)
            with _explaining(path):
                compiled = compile_cached(core, raw, _read_model, device, properties, version=str(engine.__version__))
            _check_ports(compiled, spec, where=path)
            return OpenVinoNetwork(compiled, spec)

        if device != "CPU":
            return load(1)
        return OpenVinoCpuSession(ThreadCopies(load, threads or count_cores(), [path]))

    def is_half(self, target: Target, precision: Precision) -> bool:
        """On GPUs and NPUs, and where float16 is asked for."""
        return precision == "fp16" or (precision == "int8" and target.engine_options.get(_DEVICE, "CPU") != "CPU")

    def tuning_choices(self, folder: Path, artefact: Artefact) -> list[Choice]:
        """Threads, threads bound to cores, and bfloat16 between int8 layers; none for GPUs and NPUs."""
        if artefact.options.get(_DEVICE, "CPU") != "CPU":
            return []
        cores = count_cores()
        counts = dict.fromkeys(n for n in (cores, cores // 2, 2, 1) if 0 < n <= cores)
        capabilities = _import_engine().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        bf16 = [Choice(f"{_PRECISION} = bf16", ((_PRECISION, "bf16"),))] if "BF16" in capabilities else []
        return [
            *(Choice(f"{n} threads", threads=n) for n in counts),
            Choice(f"{_PINNING} = true", ((_PINNING, True),)),
            *bf16,
        ]

    def list_layers(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, images: Pixels, *, runs: int, threads: int = 0
    ) -> LayerReport:
        """By the runtime model of the network, compiled once more with counters."""
        core = _import_engine().Core()
        path = artefact_file(folder, artefact, "onnx")
        device, properties = _properties(artefact, threads or count_cores())
        _check_device(core, device)
        with _explaining(path):
            compiled = core.compile_model(_read_model(read_artefact(path)), device, {**properties, _COUNTERS: True})
            return report_layers(
                compiled, lambda request: request.infer(np.ascontiguousarray(images), share_inputs=True), runs=runs
            )

    def list_built(self) -> list[Path]:
        """Compiled networks."""
        return sorted(compiled_folder().glob("*.blob"))

    def examine(self) -> list[Finding]:
        """The devices that OpenVINO finds, and what is in its cache."""
        try:
            core = _import_engine().Core()
        except (MissingPackageError, BackendError):
            return []  # the list of packages says so
        found = {name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in core.available_devices}
        lacking = [name for name in _DRIVERS if not any(_is_device(device, name) for device in found)]
        count, size = kept_networks()
        return [
            *(Finding(f"device {name}", title) for name, title in found.items()),
            *(Finding(f"device {name}", "none", _DRIVERS[name]) for name in lacking),
            Finding("compiled networks are kept in", f"{compiled_folder()} ({count} of {size / 2**20:.0f} MiB in all)"),
        ]


class OpenVinoNetwork:
    """A compiled network and the requests that are free to run it: a session, for devices without threads to choose."""

    def __init__(self, compiled: Any, spec: ModelSpec) -> None:
        self._compiled, self._input = compiled, spec.input
        places = {port.any_name: place for place, port in enumerate(compiled.outputs)}
        self._places = [places[name] for name in output_names(spec.output_count)]
        batch = compiled.inputs[0].partial_shape[0]
        self._batch = batch_of_graph(int(batch.get_length()) if batch.is_static else None, spec.input)
        self._idle: list[Any] = []

    def run(self, images: Pixels) -> list[npt.NDArray[np.float32]]:
        """Inputs -> one (B, C, h, w) float32 array per raw head map, map_0 first."""
        compiled = self._compiled
        if compiled is None:
            raise BackendError("the session is closed", hint="Open the artefact again")
        try:
            request = self._idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        maps = run_batches(lambda part: self._run_part(request, part), images, self._input, self._batch)
        self._idle.append(request)
        return maps

    def close(self) -> None:
        """Give the engine's memory back."""
        self._compiled = None
        self._idle.clear()

    def _run_part(self, request: Any, images: Pixels) -> list[npt.NDArray[np.float32]]:
        with _explaining("openvino"):
            maps = request.infer(np.ascontiguousarray(images), share_inputs=True)
        return [maps[place] for place in self._places]


class OpenVinoCpuSession(CopiesSession[OpenVinoNetwork]):
    """Runs a network on the processor."""

    def run(self, images: Pixels) -> list[npt.NDArray[np.float32]]:
        """Inputs -> one (B, C, h, w) float32 array per raw head map, map_0 first."""
        return self._opened().run(images)


def _import_engine() -> Any:
    return import_package("openvino", needed_for="building and running OpenVINO artefacts", extra="openvino")


def _version(engine: Any) -> str:
    """The release alone, such as "2026.4.1", of "2026.4.1-22982-e213a147257-releases/2026/4"."""
    return str(engine.__version__).partition("-")[0]


def _read_model(raw: bytes) -> Any:
    """OpenVINO's model of an ONNX file; its other readers are not tried."""
    from openvino.frontend import FrontEndManager

    reader = FrontEndManager().load_by_framework("onnx")
    return reader.convert(reader.load(io.BytesIO(raw)))


def _check_options(options: Mapping[str, Option]) -> None:
    """Raise an error for an option or a device that is not known; other values are for OpenVINO to check."""
    check_option_names(options, _OPTIONS, engine="openvino")
    device = options.get(_DEVICE, "CPU")
    if not any(_is_device(str(device), name) for name in _DRIVERS):
        raise UsageError(f"OpenVINO device is '{device}'", hint=f"Choose from: {', '.join(_DRIVERS)}, or GPU.1 ...")


def _properties(artefact: Artefact, threads: int) -> tuple[str, dict[str, Option]]:
    """The device of an artefact, and the properties to compile with."""
    properties = dict(artefact.options)
    device = str(properties.pop(_DEVICE, "CPU"))
    return device, (_cpu_properties(threads) if device == "CPU" else {}) | properties


def _cpu_properties(threads: int) -> dict[str, Option]:
    """What a target may change: threads go to any core; int8 in float, from the same integers, where bytes saturate."""
    exact: dict[str, Option] = {}
    if saturates_bytes():
        logger.warning("%s has no VNNI: OpenVINO runs int8 in float, for its int8 saturates there", processor_name())
        exact = {"LP_TRANSFORMS_MODE": "NO"}
    return {_PINNING: False, "INFERENCE_NUM_THREADS": threads, **exact}


def _is_device(found: str, name: str) -> bool:
    """Whether a device as OpenVINO lists it, such as "GPU.1", is of a kind."""
    return found.partition(".")[0] == name


def _check_device(core: Any, device: str) -> None:
    """Raise BackendError where this computer has no such device."""
    found = core.available_devices
    if device not in found and not any(_is_device(name, device) for name in found):
        raise BackendError(
            f"OpenVINO finds no {device} on this computer; what it finds is {', '.join(found) or 'nothing'}",
            hint=_DRIVERS[device.partition(".")[0]],
        )


def _check_ports(model: Any, spec: ModelSpec, *, where: Path) -> None:
    inputs = {
        port.any_name: [size.get_length() if size.is_static else None for size in port.partial_shape]
        for port in model.inputs
    }
    check_signature(inputs, [port.any_name for port in model.outputs], spec, where=where)


@contextmanager
def _explaining(where: object) -> Iterator[None]:
    """Turn the engine's own exceptions, some of which share no base but Exception, into BackendError."""
    from openvino import frontend

    kinds = (frontend.GeneralFailure, frontend.InitializationFailure, frontend.NotImplementedFailure)
    try:
        yield
    except (RuntimeError, *kinds, frontend.OpConversionFailure, frontend.OpValidationFailure) as error:
        raise BackendError(f"OpenVINO refuses it ({_reason(error)})", where=where) from None


def _reason(error: Exception) -> str:
    """What OpenVINO's message says, without the places in its source."""
    lines = [line.strip(" -") for line in str(error).splitlines() if not line.startswith(("Exception from", "Check '"))]
    return " ".join(line for line in lines if line)[:300] or str(error)[:300]


ENGINE = OpenVinoEngine()
