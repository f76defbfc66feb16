"""TensorRT: Jetsons and servers by the package `tensorrt`, desktop GPUs by `tensorrt_rtx`.

A plan runs only on the kind of GPU and the version of TensorRT that built it. So a host prepares the ONNX and checks
it, and the board builds the plan when it first loads the bundle, and keeps it (see `_tensorrt_cache`). The plan stays
raw; what it is stands in a record beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeyolo.backends._checks import artefact_file, is_accepted_version
from edgeyolo.backends.tensorrt.adapter import TensorRt, load_tensorrt
from edgeyolo.backends.tensorrt.cache import (
    PlanKey,
    cached_plan,
    forget_plan,
    read_timing_cache,
    write_timing_cache,
)
from edgeyolo.backends.tensorrt.cuda import Cuda
from edgeyolo.backends.tensorrt.dla import describe_dla, dynamic_ranges
from edgeyolo.backends.tensorrt.network import input_shape, make_network, trtexec_command
from edgeyolo.backends.tensorrt.options import Options, make_options, plan_options
from edgeyolo.backends.tensorrt.session import TensorRtSession, session_outputs
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.graph.qdq_check import check_qdq
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.errors import BackendError, MissingPackageError, UsageError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelRecord, ModelSpec
from edgeyolo.spec.packages import import_package
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.qparams import QParams, load_qparams, save_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Precision, Target

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)

_ONNX, _QPARAMS, _COMMAND = "model.onnx", "qparams.json", "trtexec.txt"
ON_BOARD = "built on the board"


def probe(target: Target) -> list[str]:
    """What is missing here to build for `target`: only the onnx package, the rest is the board's."""
    make_options(target.engine_options)
    try:
        import_package("onnx", needed_for="building an artefact from model.onnx", extra="onnxruntime")
    except (MissingPackageError, BackendError) as error:
        return [str(error)]
    return []


def build(onnx_path: Path, qparams: QParams | None, target: Target, out: Path, *, precision: Precision) -> Artefact:
    """Write the ONNX that the board builds from, and how; see `edgeyolo.backends.build`.

    With in-graph post-processing, the model's decode is read from the `model.json` beside `model.onnx`. Where
    tensorrt_rtx is installed, its parser reads the graph, so that what TensorRT does not take is found here.
    """
    options = _target_options(target)
    model = load_onnx(onnx_path)
    spec = _decode_of(onnx_path) if target.postprocess == "graph" else None
    dla = options.dla_core >= 0
    if dla:
        _report_dla(model, options, target)
    implicit = qparams if dla and precision == "int8" else None  # DLA takes ranges, not Q/DQ
    network = make_network(
        model, None if implicit else qparams, options, precision="fp32" if implicit else precision, postprocess=spec
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
    if implicit:
        logger.info("trtexec cannot be given the ranges of INT8 on DLA: the plan is built when the bundle is loaded")
    else:
        command = trtexec_command(options, precision, input_shape(model.graph))
        write_file(out / _COMMAND, f"{command}\n".encode())
        files["trtexec"] = _COMMAND
        logger.info("the same plan by hand, on the board: %s", command)
    return Artefact(
        engine="tensorrt",
        engine_version=ON_BOARD,
        precision=precision,
        files=files,
        options=dataclasses.asdict(options),
        layers=_layer_counts(network.layers, implicit),
        graph_candidates=network.graph_candidates,
    )


def open_artefact(
    folder: Path, artefact: Artefact, *, output_count: int, image_hw: tuple[int, int], threads: int = 0
) -> TensorRtSession:
    """Build the plan or take it from the cache, and load it; see `edgeyolo.backends.open_artefact`."""
    options = make_options(artefact.options)
    onnx_path = artefact_file(folder, artefact, "onnx")
    trt = load_tensorrt(options.package)
    trt.check_version(options.versions)
    cuda = Cuda()
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
    ranges = dynamic_ranges(load_onnx(onnx_path).graph, load_qparams(scales_path)) if scales_path else {}
    engine = _cached_engine(trt, options, key, lambda: _compile(trt, onnx_path, options, key, ranges))
    names = session_outputs(output_count, artefact.graph_candidates)
    return TensorRtSession(cuda, trt, engine, names, image_hw, options)


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
    parsed = trt.parse(onnx_path.read_bytes(), options)
    return parsed.compile(options, precision, capability=capability, progress=progress)[0]


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


def _compile(trt: TensorRt, onnx_path: Path, options: Options, key: PlanKey, ranges: dict[str, float]) -> bytes:
    logger.info("building the plan for %s with %s %s, once", key.gpu, key.package, key.version)
    parsed = trt.parse(onnx_path.read_bytes(), options)
    timing = read_timing_cache(key) if options.timing_cache else b""
    with _progress_bar() as progress:
        plan, timing = parsed.compile(options, key.precision, timing_cache=timing, ranges=ranges, progress=progress)
    write_timing_cache(key, timing)
    return plan


def _target_options(target: Target) -> Options:
    options = make_options(target.engine_options)
    is_accepted_version("0", target.engine_versions, where=target.title)  # refuses a malformed range here, not there
    return dataclasses.replace(options, versions=options.versions or target.engine_versions)


def _decode_of(onnx_path: Path) -> ModelSpec:
    path = onnx_path.parent / "model.json"
    if not path.is_file():
        raise UsageError(
            "post-processing in the graph needs the model's decode",
            where=path,
            hint='Build from a folder of `edgeyolo quantize`, or set postprocess = "host" in the target',
        )
    return load_json(path, ModelRecord).model


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


@contextlib.contextmanager
def _progress_bar() -> Iterator[Progress]:
    """A bar on stderr for people who wait; nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield SILENT
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        yield _BarProgress(bar)


class _BarProgress:
    """`Progress` shown as one bar per stage."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        name = text or stage
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total)
        self._bar.update(self._tasks[name], completed=done, total=total)
