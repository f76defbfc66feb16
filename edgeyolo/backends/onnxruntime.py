"""ONNX Runtime: float and Q/DQ; the numeric reference on every host.

int8 keeps the Q/DQ graph as it is. Convolutions read and multiply the same integers as on a board; the graph has no
quantizer on a convolution's output, so ONNX Runtime computes them in float between the two, at float speed.

The option `round_outputs` has the outputs of convolutions rounded too, when the graph is loaded: twice as fast as float
on x86, and no longer the numbers of the other engines. Where sums of products of bytes saturate (`saturates_bytes`) the
graph is run as it is written, in float.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeyolo.backends._artefact import artefact_file, check_option_names, read_artefact
from edgeyolo.backends._batches import batch_of_graph, run_batches
from edgeyolo.backends._copies import CopiesSession, ThreadCopies
from edgeyolo.backends._onnx import check_signature, make_graph
from edgeyolo.backends._versions import check_version, list_version_problems
from edgeyolo.backends.engine import Engine
from edgeyolo.graph.external_data import refuse_external_data
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.graph.rounded import round_outputs
from edgeyolo.heads import head_of
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.detections import Pixels
from edgeyolo.spec.errors import BackendError, MissingPackageError, UsageError
from edgeyolo.spec.layers import LayerReport, LayerRun, make_layer_report
from edgeyolo.spec.machine import count_cores, processor_name, saturates_bytes
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.packages import Package, import_package
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.target import Option, Precision, Target
from edgeyolo.spec.tensor import INPUT_NAME

logger = logging.getLogger(__name__)

_FILE = "model.onnx"
_ROUND_OUTPUTS = "round_outputs"
_CONVERTING = ("QuantizeLinear", "DequantizeLinear", "Cast", "ReorderInput", "ReorderOutput")
_PRECISIONS = {"int8": "int8", "uint8": "int8", "float": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime on any processor."""

    name = "onnxruntime"
    packages = (Package("onnxruntime", "onnxruntime", "engine: ONNX Runtime", "onnxruntime"),)
    cpu_package = "onnxruntime"
    takes_bytes = True
    is_reference = True
    lists_layers = True

    def host_target(self) -> str:
        """This computer itself."""
        return "host-onnx"

    def probe(self, target: Target) -> list[str]:
        """What is missing here to build for and run `target`."""
        try:
            return list_version_problems("onnxruntime", _import_engine().__version__, target)
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
        """Write `model.onnx`, with Q/DQ for int8."""
        engine = _import_engine()
        check_version("onnxruntime", engine.__version__, target)
        _check_options(target.engine_options)
        if precision not in ("int8", "fp32"):
            raise UsageError(f"onnxruntime artefacts are int8 or fp32, not {precision}", where=target.title)
        rounds = bool(target.engine_options.get(_ROUND_OUTPUTS))
        raw, layers = make_graph(onnx_path, spec, qparams, unsigned=rounds)
        with _explaining(onnx_path):
            session = _make_session(raw, threads=1)
        _check_signature(session, spec, where=onnx_path)
        write_file(out / _FILE, raw)
        return Artefact(
            engine="onnxruntime",
            engine_version=engine.__version__,
            precision=precision,
            files={"onnx": _FILE},
            options=target.engine_options,
            layers=layers,
        )

    def open(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, *, threads: int = 0, progress: Progress = SILENT
    ) -> OnnxRuntimeSession:
        """Load the graph."""
        _import_engine()
        _check_options(artefact.options)
        path = artefact_file(folder, artefact, "onnx")

        def load(count: int) -> Any:
            raw = _read_graph(artefact, path)
            with _explaining(path):
                session = _make_session(raw, threads=count)
            _check_signature(session, spec, where=path)
            return session

        copies = ThreadCopies(load, threads or count_cores(), [path])
        return OnnxRuntimeSession(copies, spec)

    def list_layers(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, images: Pixels, *, runs: int, threads: int = 0
    ) -> LayerReport:
        """By the engine's profiler, in a session of its own."""
        _import_engine()
        path = artefact_file(folder, artefact, "onnx")
        with _explaining(path), tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
            session = _make_session(
                _read_graph(artefact, path), threads=threads or count_cores(), profile=str(Path(work) / "profile")
            )
            for _ in range(1 + runs):
                session.run(None, {INPUT_NAME: np.ascontiguousarray(images)})
            profile = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return _report_profile(profile, runs)


class OnnxRuntimeSession(CopiesSession[Any]):
    """Runs an ONNX graph, as many pictures at a time as it takes."""

    def __init__(self, copies: ThreadCopies[Any], spec: ModelSpec) -> None:
        super().__init__(copies)
        self._names = head_of(spec.decode).output_names()
        self._input = spec.input
        first: Any = copies.current
        self._batch = batch_of_graph(first.get_inputs()[0].shape[0], spec.input)

    def run(self, images: Pixels) -> list[npt.NDArray[np.float32]]:
        """Inputs -> one (B, C, h, w) float32 array per raw head map, map_0 first."""
        session = self._opened()
        with _explaining("onnxruntime"):
            return run_batches(
                lambda part: session.run(self._names, {INPUT_NAME: part}), images, self._input, self._batch
            )


def _check_options(options: Mapping[str, Option]) -> None:
    check_option_names(options, [_ROUND_OUTPUTS], engine="onnxruntime")
    if not isinstance(options.get(_ROUND_OUTPUTS, False), bool):
        raise UsageError(f"onnxruntime option '{_ROUND_OUTPUTS}' is {options[_ROUND_OUTPUTS]!r}", hint="Write true")


def _read_graph(artefact: Artefact, path: Path) -> bytes:
    """The graph as it is run."""
    raw = read_artefact(path)
    refuse_external_data(raw, where=path)
    if artefact.precision == "int8" and artefact.options.get(_ROUND_OUTPUTS):
        raw = _round_outputs(raw, path)
    return raw


def _report_profile(profile: Sequence[Mapping[str, Any]], runs: int) -> LayerReport:
    """Layers from the events of a profile whose first run was the warm-up.

    Source: github.com/microsoft/onnxruntime, docs of performance tuning: profiling tools, and what 1.2x writes.
    """
    kernels: dict[str, list[Mapping[str, Any]]] = {}
    for event in profile:
        if event.get("cat") == "Node" and "op_name" in event["args"]:
            kernels.setdefault(event["name"], []).append(event)
    rows = []
    for name, events in kernels.items():
        told = events[0]["args"]
        takes, gives = (_first_type(told.get(f"{side}_type_shape", [])) for side in ("input", "output"))
        rows.append(
            LayerRun(
                name=name.removesuffix("_kernel_time"),
                kind=told["op_name"],
                precision=takes,
                takes=takes,
                gives=gives,
                is_conversion=told["op_name"] in _CONVERTING,
                ms=statistics.median(event["dur"] for event in events[1:]) / 1e3,
            )
        )
    return make_layer_report(rows, method="ONNX Runtime's profiler", runs=runs)


def _first_type(tensors: Sequence[Mapping[str, object]]) -> str:
    return next((_PRECISIONS.get(kind, kind) for tensor in tensors for kind in tensor), "")


def _round_outputs(raw: bytes, path: Path) -> bytes:
    """The graph with rounded outputs, where this processor multiplies bytes without saturating; else as it is."""
    if saturates_bytes():
        logger.warning("%s has no VNNI: int8 runs in float, and '%s' has no effect", processor_name(), _ROUND_OUTPUTS)
        return raw
    rounded: bytes = round_outputs(load_onnx(path)).SerializeToString()
    return rounded


def _import_engine() -> Any:
    return import_package("onnxruntime", needed_for="running ONNX artefacts", extra="onnxruntime")


def _make_session(raw: bytes, *, threads: int, profile: str = "") -> Any:
    """A session; with `profile`, one that writes what its kernels do to a file of a name that begins so."""
    engine = _import_engine()
    options = engine.SessionOptions()
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_ENABLE_ALL
    return engine.InferenceSession(raw, options, providers=["CPUExecutionProvider"])


def _check_signature(session: Any, spec: ModelSpec, *, where: Path) -> None:
    inputs = {entry.name: entry.shape for entry in session.get_inputs()}
    check_signature(inputs, [entry.name for entry in session.get_outputs()], spec, where=where)


@contextmanager
def _explaining(where: object) -> Iterator[None]:
    """Turn the engine's own exceptions, which share no base but Exception, into BackendError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile)
    more = (state.NotImplemented, state.RuntimeException, state.EPFail, state.NoModel)
    try:
        yield
    except (*kinds, *more, OSError) as error:
        raise BackendError(f"ONNX Runtime refuses it ({error})", where=where) from None


ENGINE = OnnxRuntimeEngine()
