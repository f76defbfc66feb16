"""ncnn: the engine for ARM boards. pnnx converts model.onnx; int8 is written into its files from qparams.

fp16 says how weights are stored and that the engine may compute in half precision; bf16 that it keeps tensors in
bfloat16. What an int8 artefact keeps float is half precision for aarch64 boards and float32 elsewhere. A mixed one runs
those layers in int8 that are cheaper so on the target's core.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeyolo.backends._artefact import artefact_file, check_option_names
from edgeyolo.backends._copies import CopiesSession, ThreadCopies
from edgeyolo.backends._versions import check_version, list_version_problems
from edgeyolo.backends.engine import Engine, Ruler, check_images
from edgeyolo.backends.ncnn.by_cost import mix
from edgeyolo.backends.ncnn.costs import Way, load_costs
from edgeyolo.backends.ncnn.files import CONVOLUTIONAL, Layer, format_param, parse_param, read_bin, write_bin
from edgeyolo.backends.ncnn.in_memory import FLOAT_BITS, RunLayer, report_layers
from edgeyolo.backends.ncnn.int8 import quantize_network, store_half
from edgeyolo.backends.ncnn.mixed import float_layers as turn_float
from edgeyolo.backends.ncnn.pnnx import convert, find_pnnx
from edgeyolo.backends.ncnn.requantize import requantize
from edgeyolo.backends.ncnn.rulers import open_rulers
from edgeyolo.backends.ncnn.shapes import check_network, infer_shapes
from edgeyolo.backends.ncnn.tuning import list_choices
from edgeyolo.backends.ncnn.work import count_instructions, list_convolutions
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.detections import Pixels
from edgeyolo.spec.errors import BackendError, MissingPackageError, UsageError
from edgeyolo.spec.layers import LayerReport
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import InputSpec, ModelSpec
from edgeyolo.spec.packages import Package, import_package
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.target import Option, Precision, Target, needs_scales
from edgeyolo.spec.tensor import INPUT_NAME, output_names
from edgeyolo.spec.tuning import Choice
from edgeyolo.spec.work import Convolution

_PARAM_FILE, _BIN_FILE = "model.ncnn.param", "model.ncnn.bin"
_POWERSAVE = "cpu_powersave"  # of ncnn's cpu.h, not of its Option: 0 all cores, 1 the little ones, 2 the big ones
_PINNED = threading.local()  # `powersave` of the thread, once it was bound
_PINNED_ANYWHERE: set[int] = set()  # threads inherit their cores from the one that starts them
# How a core computes the floats of each.
_FLOATS: dict[Precision, Way] = {"mixed": "fp16", "int8": "fp16", "fp16": "fp16", "bf16": "bf16", "fp32": "fp32"}
_INPUT_BLOB = "in0"  # pnnx numbers inputs and outputs in the order of the ONNX graph


class NcnnEngine(Engine):
    """ncnn on ARM boards, and on any processor for a check."""

    name = "ncnn"
    packages = (
        Package("ncnn", "ncnn", "engine: ncnn boards", "ncnn"),
        Package("pnnx", "pnnx", "deploy to ncnn", "train"),
    )
    cpu_package = "ncnn"
    lists_layers = True
    lacks = ("DeformConv",)

    def host_target(self) -> str:
        """This computer itself."""
        return "host-ncnn"

    def check_target(self) -> str:
        """The board most people have: ncnn's bundles are portable."""
        return "raspberry-pi-5"

    def probe(self, target: Target) -> list[str]:
        """What is missing here to build for `target`."""
        problems = []
        try:
            problems += list_version_problems("ncnn", _import_engine().__version__, target)
        except (MissingPackageError, BackendError) as error:
            problems.append(str(error))
        try:
            find_pnnx()
        except MissingPackageError as error:
            problems.append(str(error))
        return problems

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
        """Write `model.ncnn.param` and `model.ncnn.bin`."""
        version = _import_engine().__version__
        check_version("ncnn", version, target)
        options = _precision_options(target, precision, half=self.is_half(target, precision)) | target.engine_options
        _check_options(options)
        model = load_onnx(onnx_path)
        _check_signature(model.graph, spec, where=onnx_path)
        image_hw = spec.input.image_hw
        layers = [_with_size(layer, image_hw) for layer in convert(onnx_path, image_hw)]
        choice = None
        if qparams is not None and precision == "mixed":
            _check_core(target)
            layers, choice = mix(layers, model, qparams, image_hw, target.core, _float_precision(options))
            layers = requantize(layers)
        elif qparams is not None:
            layers = requantize(quantize_network(layers, model, qparams))
        if self.is_half(target, precision):
            layers = store_half(layers)
        check_network(layers, image_hw, spec.output_count, where=onnx_path)
        write_file(out / _PARAM_FILE, format_param(layers).encode())
        write_file(out / _BIN_FILE, write_bin(layers))
        terms = [layer.integer(8) for layer in layers if layer.kind in CONVOLUTIONAL]
        int8 = sum(term != 0 for term in terms)
        return Artefact(
            engine="ncnn",
            engine_version=version,
            precision=precision,
            files={"param": _PARAM_FILE, "bin": _BIN_FILE},
            options=options,
            layers={"float": len(terms)} if qparams is None else {"int8": int8, "float": len(terms) - int8},
            choice=choice,
        )

    def open(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, *, threads: int = 0, progress: Progress = SILENT
    ) -> NcnnSession:
        """Check the files, then load them."""
        engine = _import_engine()
        _check_options(artefact.options)
        files = [artefact_file(folder, artefact, role) for role in ("param", "bin")]
        copies = ThreadCopies(
            lambda count: _load_net(engine, artefact, spec, *files, threads=count),
            threads or engine.Option().num_threads,
            files,
        )
        powersave = int(artefact.options.get(_POWERSAVE, 0))
        return NcnnSession(engine, copies, spec.output_count, spec.input.image_hw, powersave=powersave)

    def tuning_choices(self, folder: Path, artefact: Artefact) -> list[Choice]:
        """Threads, engine options, and parts of the int8 layers in float."""
        param = artefact_file(folder, artefact, "param")
        return list_choices(_import_engine(), artefact, _read_param(param))

    def list_convolutions(self, folder: Path, artefact: Artefact, spec: ModelSpec) -> list[Convolution]:
        """From the .param."""
        param = artefact_file(folder, artefact, "param")
        layers = _read_param(param)
        return list_convolutions(layers, infer_shapes(layers, spec.input.image_hw, where=param))

    def list_layers(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, images: Pixels, *, runs: int, threads: int = 0
    ) -> LayerReport:
        """Layer by layer, with the types of what lies in memory between them."""
        param = artefact_file(folder, artefact, "param")
        int8 = {layer.name for layer in _read_param(param) if layer.kind in CONVOLUTIONAL and layer.integer(8)}
        session = self.open(folder, artefact, spec, threads=threads)
        try:
            return report_layers(session, images[0], int8 - set(artefact.float_layers), artefact.options, runs=runs)
        finally:
            session.close()

    def count_instructions(self, convolutions: Sequence[Convolution], core: str, floats: Precision) -> float:
        """By the core's table of costs."""
        return count_instructions(convolutions, load_costs(core), _FLOATS[floats])

    def open_rulers(self) -> dict[str, Ruler]:
        """Layers of one kind each, in float and in int8."""
        return open_rulers()

    def is_half(self, target: Target, precision: Precision) -> bool:
        """fp16, and what int8 leaves on aarch64."""
        return precision == "fp16" or (needs_scales(precision) and target.machine == "aarch64")

    def needed_features(self, artefact: Artefact, target: Target) -> tuple[str, ...]:
        """Dot products, where int8 asks for winograd F(4,3): an ARM core without them runs it, and its sums overflow.

        Nothing else is needed: ncnn looks at the processor and takes the kernels that it has.
        """
        unguarded = artefact.precision == "int8" and artefact.options.get("use_winograd43_convolution", True)
        return ("asimddp",) if unguarded and target.machine == "aarch64" else ()


def _load_net(engine: Any, artefact: Artefact, spec: ModelSpec, param: Path, weights: Path, *, threads: int) -> Any:
    """A network whose weights are laid out for so many threads."""
    try:
        layers = read_bin(_read_param(param), weights.read_bytes(), where=weights)
    except OSError as error:
        raise BackendError(f"cannot be read ({error})", where=weights) from None
    check_network(layers, spec.input.image_hw, spec.output_count, where=param)
    net = engine.Net()
    for name, value in artefact.options.items():
        if name != _POWERSAVE:
            setattr(net.opt, name, value)
    net.opt.num_threads = threads
    with _loadable(layers, artefact, param, weights) as paths:
        for load, path in zip((net.load_param, net.load_model), paths, strict=True):
            if load(str(path)) != 0:
                raise BackendError("ncnn cannot load it", where=path, hint="Deploy again with the board's ncnn version")
    return net


@contextlib.contextmanager
def _loadable(layers: list[Layer], artefact: Artefact, param: Path, weights: Path) -> Iterator[tuple[Path, Path]]:
    """The files to load: the bundle's own, or others for as long as they are read, where layers are turned to float."""
    if not artefact.float_layers:
        yield param, weights
        return
    layers = turn_float(layers, artefact.float_layers, half=False)
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        turned = (Path(work) / _PARAM_FILE, Path(work) / _BIN_FILE)
        write_file(turned[0], format_param(layers).encode())
        write_file(turned[1], write_bin(layers))
        yield turned


class NcnnSession(CopiesSession[Any]):
    """Runs an ncnn network, picture by picture. `run` may be called from several threads."""

    def __init__(
        self,
        engine: Any,
        copies: ThreadCopies[Any],
        output_count: int,
        image_hw: tuple[int, int],
        *,
        powersave: int = 0,
    ) -> None:
        self._engine = engine
        self._powersave = powersave
        super().__init__(copies)
        self._outputs = [f"out{i}" for i in range(output_count)]
        self._input = InputSpec(image_hw=image_hw)

    def run(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """(B, 3, H, W) float32 -> one (B, C, h, w) float32 array per raw head map, map_0 first."""
        net = self._opened()
        check_images(images, self._input)
        if len(images) == 0:
            raise BackendError("no pictures given")
        _pin(self._engine, self._powersave)
        runs = [self._run_one(net, np.ascontiguousarray(image)) for image in images]
        return [np.stack(maps) for maps in zip(*runs, strict=True)]

    def time_layers(self, image: npt.NDArray[np.float32]) -> dict[str, float]:
        """Name of each layer -> milliseconds that it took in one run on a picture (3, H, W), all layers in order.

        A layer's time holds what the engine does to its inputs first, such as packing them.
        """
        return {layer.name: layer.ms for layer in self.run_layers(image)}

    def run_layers(self, image: npt.NDArray[np.float32]) -> list[RunLayer]:
        """Every layer of one run on a picture (3, H, W), in order."""
        check_images(image[None], self._input)
        net = self._opened()
        extractor = net.create_extractor()
        extractor.input(_INPUT_BLOB, self._engine.Mat(image))
        bits: dict[int, int] = {}  # of a number, by the number of the blob; the picture's are floats
        run = []
        for layer in net.layers():
            if layer.type != "Input":
                started = time.perf_counter()
                _, mat = extractor.extract(layer.tops[0], 1)  # 1: as the layer leaves it, not converted for the caller
                ms = 1000 * (time.perf_counter() - started)
                bits |= dict.fromkeys(layer.tops, mat.elembits())
                run.append(RunLayer(layer.name, layer.type, ms, _takes(layer, bits), mat.elembits()))
        return run

    def _run_one(self, net: Any, image: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """(3, H, W) -> each map (C, h, w), in memory of the extractor's that `run` copies."""
        mat = self._engine.Mat(image)  # looks at `image`, which outlives the extractor
        if image[0].size % 4:  # ncnn's own planes begin at multiples of 16 bytes, and its kernels may count on it
            mat = mat.clone()
        extractor = net.create_extractor()
        if extractor.input(_INPUT_BLOB, mat) != 0:
            raise BackendError(f"ncnn does not take '{_INPUT_BLOB}'")
        maps = []
        for name in self._outputs:
            code, map_ = extractor.extract(name)
            if code != 0:
                raise BackendError(f"ncnn cannot compute '{name}' (code {code})", hint="Out of memory, perhaps")
            maps.append(np.asarray(map_, np.float32))
        return maps


def _takes(layer: Any, bits: Mapping[int, int]) -> int:
    """Bits of a number of what a layer reads first."""
    return bits.get(layer.bottoms[0], FLOAT_BITS) if layer.bottoms else FLOAT_BITS


def _pin(engine: Any, powersave: int) -> None:
    """Bind the calling thread, and the team that it computes with, to a kind of cores.

    ncnn remembers one kind for the process, but binds the threads of the caller only. A thread that was never bound is
    left alone where none has to be: its cores are for whoever started the process to choose.
    """
    if getattr(_PINNED, "powersave", 0 if not _PINNED_ANYWHERE else None) != powersave:
        engine.set_cpu_powersave(powersave)
        _PINNED.powersave = powersave
        _PINNED_ANYWHERE.add(powersave)


def _read_param(path: Path) -> list[Layer]:
    try:
        return parse_param(path.read_text(encoding="utf-8"), where=path)
    except (OSError, UnicodeDecodeError) as error:
        raise BackendError(f"cannot be read ({error})", where=path) from None


def _import_engine() -> Any:
    return import_package("ncnn", needed_for="building and running ncnn artefacts", extra="ncnn")


def _with_size(layer: Layer, image_hw: tuple[int, int]) -> Layer:
    """The Input layer with its size, which pnnx leaves out; any other layer as it is."""
    return replace(layer, params={0: image_hw[1], 1: image_hw[0], 2: 3}) if layer.kind == "Input" else layer


def _precision_options(target: Target, precision: Precision, *, half: bool) -> dict[str, Option]:
    """Engine options that make float layers run as `precision` says, whatever the engine's defaults are.

    int8 goes without winograd F(4,3), whose int32 sums overflow with full 8-bit weights; mixed sees to each layer. x86
    and ARM cores without dot products (asimddp) would run int8 by it; the others have no use for it there, and so agree
    with a check on x86.

    Source: github.com/Tencent/ncnn, src/layer/arm/convolution_arm.cpp and convolution_3x3_winograd_int8.h.
    """
    guard: dict[str, Option] = {"use_winograd43_convolution": False} if precision == "int8" else {}
    return guard | {
        "use_fp16_packed": half,
        "use_fp16_storage": half,
        "use_fp16_arithmetic": half and "asimdhp" in target.cpu_features,
        "use_bf16_storage": precision == "bf16",
    }


def _float_precision(options: Mapping[str, Option]) -> Literal["fp32", "fp16"]:
    """In which floats are computed."""
    return "fp16" if options["use_fp16_arithmetic"] else "fp32"


def _check_core(target: Target) -> None:
    if not target.core:
        raise UsageError("mixed precision needs the target's `core`, whose costs decide", hint="Deploy with int8")


def _check_options(options: Mapping[str, Option]) -> None:
    """Raise an error for an option that ncnn does not have, or of another type than it takes."""
    defaults = _import_engine().Option()
    names = [name for name in dir(defaults) if not name.startswith("_") and name != "num_threads"]
    known = {name: getattr(defaults, name) for name in names if isinstance(getattr(defaults, name), bool | int)}
    known[_POWERSAVE] = 0
    check_option_names(options, list(known), engine="ncnn")
    for name, value in options.items():
        if type(value) is not type(known[name]):
            raise UsageError(f"ncnn option '{name}' is {value!r}, not a {type(known[name]).__name__}")
    if options.get("use_int8_inference") is False:
        raise UsageError("ncnn takes int8 weights for floats without 'use_int8_inference'", hint="Leave it out")


def _check_signature(graph: Any, spec: ModelSpec, *, where: Path) -> None:
    """Raise BackendError where the graph has other names than ours, or another size or number of maps than its spec."""
    names = [entry.name for entry in graph.output]
    wanted = output_names(spec.output_count)
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in initializers]
    if [entry.name for entry in inputs] != [INPUT_NAME] or names != wanted:
        raise BackendError(f"has other inputs or outputs than '{INPUT_NAME}' and {wanted}: {names}", where=where)
    sizes = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
    if sizes[1:] != [3, *spec.input.image_hw]:
        raise BackendError(
            f"the input is {sizes}, not (B, 3, H, W) with the fixed H and W of the model, {spec.input.image_hw}",
            where=where,
            hint="Export again",
        )


ENGINE = NcnnEngine()
