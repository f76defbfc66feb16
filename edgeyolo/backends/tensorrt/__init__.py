"""TensorRT: Jetsons and servers by the package `tensorrt`, desktop GPUs by `tensorrt_rtx`.

A plan runs only on the kind of GPU and the version of TensorRT that built it. So a host prepares the ONNX and checks
it, and the board builds the plan when it first loads the bundle, and keeps it (see `cache`). The plan stays
raw; what it is stands in a record beside it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeyolo.backends._artefact import artefact_file, read_artefact
from edgeyolo.backends._batches import refuse_open_batch
from edgeyolo.backends._versions import is_accepted_version
from edgeyolo.backends.engine import Engine, Finding
from edgeyolo.backends.tensorrt.adapter import TensorRt, check_fp8, load_tensorrt
from edgeyolo.backends.tensorrt.cache import (
    PlanKey,
    cached_plan,
    forget_plan,
    plan_folder,
    read_timing_cache,
    write_timing_cache,
)
from edgeyolo.backends.tensorrt.cuda import Cuda
from edgeyolo.backends.tensorrt.dla import Implicit, calibration_cache, describe_dla, make_implicit
from edgeyolo.backends.tensorrt.doctor import can_run, examine_gpu
from edgeyolo.backends.tensorrt.layers import parse_layers
from edgeyolo.backends.tensorrt.network import CALIBRATION, input_shape, make_network, trtexec_command
from edgeyolo.backends.tensorrt.options import Options, make_options, plan_options
from edgeyolo.backends.tensorrt.session import TensorRtSession, session_outputs
from edgeyolo.graph.batch import with_batch
from edgeyolo.graph.external_data import refuse_external_data
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.graph.qdq_check import check_qdq
from edgeyolo.graph.sparsity import sparse_weights
from edgeyolo.heads import has_boxes
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.detections import Pixels
from edgeyolo.spec.errors import BackendError, MissingPackageError, UsageError
from edgeyolo.spec.layers import LayerReport, make_layer_report
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.packages import Package, import_package
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.qparams import QParams, load_qparams, save_qparams
from edgeyolo.spec.target import Precision, Target

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)

_ONNX, _QPARAMS, _COMMAND = "model.onnx", "qparams.json", "trtexec.txt"
ON_BOARD = "built on the board"
_FP8_STAND_IN = "8.9"
_STAND_IN = "8.6"  # compute capability of the GPU that layers are compiled for where none is: Ampere, as Orin is


class TensorRtEngine(Engine):
    """TensorRT on NVIDIA GPUs and DLA cores."""

    name = "tensorrt"
    takes_bytes = True
    lists_layers = True
    packages = (
        Package("tensorrt-rtx-cu12", "tensorrt_rtx", "engine: desktop NVIDIA GPUs", "tensorrt"),
        Package("cuda-python", "cuda", "engine: NVIDIA GPUs", "tensorrt"),
    )
    lacks = ("DeformConv",)

    def host_target(self) -> str:
        """A desktop GPU, where one is here with all that it needs."""
        return "rtx" if can_run("tensorrt_rtx") else ""

    def probe(self, target: Target) -> list[str]:
        """What is missing here to build for `target`: only the onnx package, the rest is the board's."""
        make_options(target.engine_options)
        try:
            import_package("onnx", needed_for="building an artefact from model.onnx", extra="onnxruntime")
        except (MissingPackageError, BackendError) as error:
            return [str(error)]
        return []

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
        """Write the ONNX that the board builds from, and how.

        Where tensorrt_rtx is installed, its parser reads the graph, so that what TensorRT does not take is found here.
        """
        model = with_batch(load_onnx(onnx_path), spec.input.batch)
        options = _target_options(target, spec, is_sparse=bool(sparse_weights(model.graph)))
        dla = options.dla_core >= 0
        if dla:
            refuse_open_batch(spec, engine="DLA")
            _report_dla(model, options, target)
        implicit = qparams if dla and precision == "int8" else None  # DLA takes ranges, not Q/DQ
        network = make_network(
            model,
            None if implicit else qparams,
            options,
            precision="fp32" if implicit else precision,
            postprocess=spec if target.postprocess == "graph" and has_boxes(spec.decode) else None,
            byte_input=spec.input if spec.input.pixels == "uint8" else None,
        )
        for problem in check_qdq(network.model).problems if qparams and not implicit else ():
            logger.warning("Q/DQ: %s", problem)
        raw = network.model.SerializeToString()
        _parse_if_possible(raw, options)
        write_file(out / _ONNX, raw)
        files = {"onnx": _ONNX}
        if qparams is not None:
            save_qparams(qparams, out / _QPARAMS)
            files["qparams"] = _QPARAMS
        told = make_implicit(model.graph, implicit) if implicit else None
        if told:
            write_file(out / CALIBRATION, calibration_cache(told.ranges, options.versions).encode())
            files["calibration"] = CALIBRATION
        command = trtexec_command(
            options, precision, input_shape(network.model.graph), told.precisions if told else None
        )
        write_file(out / _COMMAND, f"{command}\n".encode())
        files["trtexec"] = _COMMAND
        return Artefact(
            engine="tensorrt",
            engine_version=ON_BOARD,
            precision=precision,
            files=files,
            options=dataclasses.asdict(options),
            layers=_layer_counts(network.layers, implicit),
            graph_candidates=network.graph_candidates,
        )

    def open(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, *, threads: int = 0, progress: Progress = SILENT
    ) -> TensorRtSession:
        """Build the plan or take it from the cache, and load it."""
        options = make_options(artefact.options)
        onnx_path = artefact_file(folder, artefact, "onnx")
        graph = _read_graph(onnx_path)
        trt = load_tensorrt(options.package)
        trt.check_version(options.versions)
        cuda = Cuda()
        if artefact.precision == "fp8":
            check_fp8(cuda.compute_capability)
        implicit = options.dla_core >= 0 and artefact.precision == "int8"
        scales_path = artefact_file(folder, artefact, "qparams") if implicit else None
        key = PlanKey(
            onnx_sha256=sha256_of(onnx_path),
            qparams_sha256=sha256_of(scales_path) if scales_path else "",
            gpu=cuda.name,
            compute_capability=cuda.compute_capability,
            package=options.package,
            version=trt.version,
            precision=artefact.precision,
            options=plan_options(options),
        )
        told = make_implicit(load_onnx(onnx_path).graph, load_qparams(scales_path)) if scales_path else None

        def compile_plan() -> bytes:
            return _compile(trt, graph, options, key, told, progress)

        engine = _cached_engine(trt, options, key, compile_plan)
        names = session_outputs(spec.output_count, artefact.graph_candidates)
        return TensorRtSession(cuda, trt, engine, names, spec.input, options)

    def list_layers(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, images: Pixels, *, runs: int, threads: int = 0
    ) -> LayerReport:
        """By the engine's inspector and profiler; without a GPU, what tensorrt_rtx compiles, without times."""
        options = make_options(artefact.options)
        if not can_run(options.package):
            return _compiled_layers(artefact_file(folder, artefact, "onnx"), options, artefact.precision)
        session = self.open(folder, artefact, spec)
        try:
            listed, times_ms = session.profile(images, runs)
        finally:
            session.close()
        rows = parse_layers(listed, times_ms)
        return make_layer_report(rows, method=f"{options.package}'s engine inspector and profiler", runs=runs)

    def is_half(self, target: Target, precision: Precision) -> bool:
        """All but fp32."""
        return precision != "fp32"

    def examine(self) -> list[Finding]:
        """Jetson release, packages, driver, GPU, and where plans are kept."""
        return examine_gpu()

    def list_built(self) -> list[Path]:
        """Plans."""
        return sorted(plan_folder().glob("*.plan"))

    def build_notes(self, folder: Path, artefact: Artefact) -> list[str]:
        """That the board builds the plan, and how to do it by hand."""
        command = artefact_file(folder, artefact, "trtexec").read_text(encoding="utf-8").strip()
        return [f"The board builds its plan with `edgeyolo build`, or when it first loads it; by hand it is: {command}"]


def compile_for(
    onnx_path: Path, options: Options, precision: Precision, *, capability: str = "", progress: Progress = SILENT
) -> bytes:
    """Build a plan from an artefact's ONNX, for this machine's GPU or (tensorrt_rtx) for a stated one.

    Args:
        capability: compute capability such as "8.6", "" for the GPU here.

    Raises:
        MissingPackageError: the package is not installed. BackendError: TensorRT cannot parse or build it.
        UsageError: an option or capability that the package does not have.
    """
    trt = load_tensorrt(options.package)
    parsed = trt.parse(_read_graph(onnx_path), options)
    return parsed.compile(options, precision, capability=capability, progress=progress)[0]


def _compiled_layers(onnx_path: Path, options: Options, precision: Precision) -> LayerReport:
    """The layers that tensorrt_rtx makes of a graph, by the log of its builder.

    Raises:
        MissingPackageError, BackendError: as `compile_for`. UsageError: the graph is for another kind of TensorRT.
    """
    if not options.strongly_typed:
        raise UsageError("the types of its layers are chosen on the board", where=onnx_path, hint="Ask on the board")
    trt = load_tensorrt("tensorrt_rtx")
    parsed = trt.parse(_read_graph(onnx_path), options)
    capability = _FP8_STAND_IN if precision == "fp8" else _STAND_IN
    parsed.compile(dataclasses.replace(options, dla_core=-1), precision, capability=capability)
    method = f"compiled by tensorrt_rtx {trt.version} for compute capability {capability}; nothing has run"
    return make_layer_report(parse_layers(parsed.log.list_layers()), method=method, runs=0)


def _cached_engine(trt: TensorRt, options: Options, key: PlanKey, compile_plan: Callable[[], bytes]) -> Any:
    """The engine of the cached plan.

    A plan that is whole and still refused comes from another build of the same version: it is made again, once.
    """
    engine = trt.deserialize(cached_plan(key, compile_plan), options)
    if engine is None:
        logger.warning("TensorRT refuses the cached plan, which is built again")
        forget_plan(key)
        engine = trt.deserialize(cached_plan(key, compile_plan), options)
    if engine is None:
        raise BackendError("TensorRT refuses the plan it has just built", hint="Run: edgeyolo doctor")
    return engine


def _compile(
    trt: TensorRt, graph: bytes, options: Options, key: PlanKey, told: Implicit | None, progress: Progress
) -> bytes:
    logger.info("building the plan for %s with %s %s, once", key.gpu, key.package, key.version)
    parsed = trt.parse(graph, options)
    timing = read_timing_cache(key) if options.timing_cache else b""
    plan, timing = parsed.compile(options, key.precision, timing_cache=timing, implicit=told, progress=progress)
    write_timing_cache(key, timing)
    return plan


def _read_graph(path: Path) -> bytes:
    raw = read_artefact(path)
    refuse_external_data(raw, where=path)
    return raw


def _target_options(target: Target, spec: ModelSpec, *, is_sparse: bool) -> Options:
    options = make_options(target.engine_options)
    options = dataclasses.replace(options, sparse_weights=options.sparse_weights or is_sparse)
    if spec.input.batch[1] > 1:
        options = dataclasses.replace(options, max_batch=spec.input.batch[1])
    is_accepted_version("0", target.engine_versions, where=target.title)  # refuses a malformed range here, not there
    return dataclasses.replace(options, versions=options.versions or target.engine_versions)


def _report_dla(model: ModelProto, options: Options, target: Target) -> None:
    if options.dla_core >= target.dla_cores:
        raise UsageError(
            f"dla_core is {options.dla_core}, and the target has {target.dla_cores} DLA cores",
            where=target.title,
            hint="Set dla_core = -1, or dla_cores if the board has them",
        )
    if options.strongly_typed:
        raise UsageError(
            "DLA takes INT8 ranges, which a strongly typed network cannot have",
            hint="Set strongly_typed = false beside dla_core (TensorRT 8 and 10)",
        )
    for line in describe_dla(model.graph):
        logger.warning("DLA: %s", line)


def _layer_counts(layers: dict[str, int], implicit: QParams | None) -> dict[str, int]:
    if implicit is None:
        return layers
    int8 = sum(layer.precision == "int8" for layer in implicit.layers.values())
    return {"int8": int8, "float": sum(layers.values()) - int8}


def _parse_if_possible(raw: bytes, options: Options) -> None:
    """The real parser's word, where tensorrt_rtx is installed; it is the strongly typed one only."""
    if not options.strongly_typed:
        return
    try:
        trt = load_tensorrt("tensorrt_rtx")
    except (MissingPackageError, BackendError) as error:
        logger.info("the graph is not checked by TensorRT's parser here (%s)", error)
        return
    trt.parse(raw, options)


ENGINE = TensorRtEngine()
