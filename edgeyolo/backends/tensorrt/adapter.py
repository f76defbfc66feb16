"""One seam to the packages `tensorrt` (8.6 to 11) and `tensorrt_rtx`: parse, compile, and what each can do.

What differs between versions is found by looking for it, never by comparing version numbers. tensorrt_rtx compiles
without a GPU, for a compute capability that is stated; tensorrt needs the GPU that the plan is for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeyolo.backends._versions import is_accepted_version
from edgeyolo.backends.tensorrt.dla import Implicit
from edgeyolo.backends.tensorrt.options import Options, PackageName
from edgeyolo.spec.errors import BackendError, MissingPackageError, UsageError
from edgeyolo.spec.packages import import_package, install_command
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.target import Precision
from edgeyolo.spec.tensor import INPUT_NAME

logger = logging.getLogger(__name__)

JETSON_INSTALL = (
    "sudo apt install tensorrt python3-libnvinfer (part of JetPack; `sudo apt install nvidia-jetpack` brings all of "
    "it), and make the virtual environment with `python3 -m venv --system-site-packages`"
)
_FIRST_WITH_FP8 = (8, 9)
_LAYERS = "Layers:\n"  # how the builder begins to list the layers of what it has built
_NOISE = ("(foreignNode) Converting conv",)  # one line per convolution: the scales of a fused int8 convolution


def check_fp8(capability: str) -> None:
    """Raise BackendError where a GPU, by its compute capability such as "8.6", does not multiply FP8."""
    if tuple(map(int, capability.split("."))) < _FIRST_WITH_FP8:
        raise BackendError(
            f"a GPU of compute capability {capability} has no FP8 arithmetic, which begins with 8.9 (Ada)",
            hint="Deploy with --precision int8",
        )


@dataclass(frozen=True)
class TensorRt:
    """An imported package.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`.
        version: of the package.
    """

    package: PackageName
    module: Any
    version: str

    def parse(self, raw: bytes, options: Options) -> Parsed:
        """Read an ONNX model.

        Raises:
            BackendError: an operator or a type that this TensorRT does not support; names the node.
        """
        trt = self.module
        log = _make_log(trt)
        builder = _made(lambda: trt.Builder(log), log, "no CUDA device was found", "Run: edgeyolo doctor")
        network = builder.create_network(self._network_flags(options))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(raw):
            errors = [parser.get_error(i) for i in range(parser.num_errors)]
            raise BackendError(
                f"{self.package} {self.version} does not take the model ({'; '.join(map(_describe, errors))})",
                hint="Keep to operators that TensorRT supports; `edgeyolo inspect --qdq model.onnx` checks the Q/DQ",
            )
        return Parsed(self, builder, network, parser, log)

    def _network_flags(self, options: Options) -> int:
        flags, wanted = self.module.NetworkDefinitionCreationFlag, 0
        if hasattr(flags, "EXPLICIT_BATCH"):  # needed in 8, deprecated in 10, gone in 11
            wanted |= 1 << int(flags.EXPLICIT_BATCH)
        if options.strongly_typed and hasattr(flags, "STRONGLY_TYPED"):  # ignored from 11 on: always so
            wanted |= 1 << int(flags.STRONGLY_TYPED)
        elif options.strongly_typed and hasattr(self.module.BuilderFlag, "FP16"):
            raise BackendError(
                f"{self.package} {self.version} has no strong typing, and the bundle was deployed for it",
                hint="Deploy with a target of this board's JetPack: edgeyolo targets",
            )
        return wanted

    def deserialize(self, plan: bytes, options: Options) -> Any:
        """The engine of a plan, None where this TensorRT refuses it."""
        runtime = self.module.Runtime(_make_log(self.module))
        if options.dla_core >= 0:
            runtime.DLA_core = options.dla_core
        return runtime.deserialize_cuda_engine(plan)

    def check_version(self, accepted: str) -> None:
        """Raise BackendError if this is not one of the versions that the bundle was deployed for."""
        if not is_accepted_version(self.version, accepted, where="the bundle"):
            raise BackendError(
                f"{self.package} {self.version} is installed, and the bundle was deployed for {accepted}",
                hint="Deploy with a target of this board's JetPack: edgeyolo targets",
            )


@dataclass(frozen=True)
class Parsed:
    """A network that was read, and what must live as long as it."""

    trt: TensorRt
    builder: Any
    network: Any
    parser: Any
    log: Any

    def compile(
        self,
        options: Options,
        precision: Precision,
        *,
        capability: str = "",
        timing_cache: bytes = b"",
        implicit: Implicit | None = None,
        progress: Progress = SILENT,
    ) -> tuple[bytes, bytes]:
        """Build the plan.

        Args:
            capability: such as "8.6", for tensorrt_rtx, which then needs no GPU; "" for the GPU of this machine.
            timing_cache: of an earlier build, b"" for none.
            implicit: for INT8 on DLA; only where the package has implicit quantization.

        Returns:
            The plan, and the timing cache, b"" where the package keeps none.

        Raises:
            BackendError: the builder found no way; its own words are in the message. Or an open image size.
            UsageError: an option that this package does not have.
        """
        if precision == "fp8" and capability:
            check_fp8(capability)
        config = self.builder.create_builder_config()
        self._set_limits(config, options)
        self._set_precision(config, options, precision)
        if capability:
            self._set_capability(config, capability)
        if options.dla_core >= 0:
            self._set_dla(config, options)
        if implicit:
            self.tell(config, implicit)
        self._add_profile(config, options)
        config.profiling_verbosity = self.trt.module.ProfilingVerbosity.DETAILED  # names and types, for the inspector
        if hasattr(config, "progress_monitor"):
            config.progress_monitor = _make_monitor(self.trt.module, progress)
        cache = self._attach_timing_cache(config, timing_cache) if options.timing_cache else None
        plan = self.builder.build_serialized_network(self.network, config)
        if plan is None:
            raise BackendError(
                f"{self.trt.package} {self.trt.version} cannot build the model ({self.log.last_errors()})",
                hint="If it says workspace or memory, raise workspace_mib in the target, or close other programs",
            )
        return bytes(plan), bytes(cache.serialize()) if cache is not None else b""

    def _set_limits(self, config: Any, options: Options) -> None:
        pools = self.trt.module.MemoryPoolType
        if options.workspace_mib:
            config.set_memory_pool_limit(pools.WORKSPACE, options.workspace_mib << 20)
        if options.builder_level >= 0:
            config.builder_optimization_level = options.builder_level

    def _set_precision(self, config: Any, options: Options, precision: Precision) -> None:
        """The builder's flags; those of types are for a network without strong typing."""
        flags = self.trt.module.BuilderFlag
        if options.sparse_weights:
            config.set_flag(flags.SPARSE_WEIGHTS)
        if precision == "fp32" and hasattr(flags, "TF32"):
            config.clear_flag(flags.TF32)
        if options.strongly_typed:
            return
        for name in {"int8": ("FP16", "INT8"), "fp16": ("FP16",)}.get(precision, ()):
            if not hasattr(flags, name):
                raise UsageError(f"{self.trt.package} {self.trt.version} builds strongly typed networks only")
            config.set_flag(getattr(flags, name))

    def _set_capability(self, config: Any, capability: str) -> None:
        name = f"SM{capability.replace('.', '')}"
        kinds = getattr(self.trt.module, "ComputeCapability", None)
        if kinds is None or not hasattr(kinds, name):
            known = sorted(kind for kind in dir(kinds) if kind.startswith("SM")) if kinds else []
            raise UsageError(
                f"{self.trt.package} {self.trt.version} cannot build for compute capability {capability} from here",
                hint=f"It can for: {', '.join(known)}" if known else "Build on the board itself",
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(kinds, name), 0)

    def _set_dla(self, config: Any, options: Options) -> None:
        if options.dla_core >= self.builder.num_DLA_cores:
            raise BackendError(
                f"there is no DLA core {options.dla_core} here ({self.builder.num_DLA_cores} in all)",
                hint="Set dla_core = -1 in the target",
            )
        config.default_device_type = self.trt.module.DeviceType.DLA
        config.DLA_core = options.dla_core
        if options.gpu_fallback:
            config.set_flag(self.trt.module.BuilderFlag.GPU_FALLBACK)

    def tell(self, config: Any, implicit: Implicit) -> None:
        """Set the ranges of tensors, and the precision of layers wherever the device has them in it."""
        self._set_ranges(implicit.ranges)
        kinds = {"int8": self.trt.module.DataType.INT8, "fp16": self.trt.module.DataType.HALF}
        for i in range(self.network.num_layers):
            layer = self.network.get_layer(i)
            if layer.name in implicit.precisions:
                layer.precision = kinds[implicit.precisions[layer.name]]
        config.set_flag(self.trt.module.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)

    def _set_ranges(self, ranges: Mapping[str, float]) -> None:
        """Implicit quantization; TensorRT 11 removed it."""
        tensors = [self.network.get_input(i) for i in range(self.network.num_inputs)]
        for i in range(self.network.num_layers):
            layer = self.network.get_layer(i)
            tensors += [layer.get_output(k) for k in range(layer.num_outputs)]
        for tensor in tensors:
            if not hasattr(tensor, "set_dynamic_range"):
                raise UsageError(f"{self.trt.package} {self.trt.version} has no implicit INT8", hint="Run on the GPU")
            if tensor.name in ranges:
                tensor.set_dynamic_range(-ranges[tensor.name], ranges[tensor.name])

    def _add_profile(self, config: Any, options: Options) -> None:
        inputs = [self.network.get_input(i) for i in range(self.network.num_inputs)]
        shape = next((tuple(entry.shape) for entry in inputs if entry.name == INPUT_NAME), ())
        if -1 in shape[1:] or len(shape) != 4:
            raise BackendError(
                f"input '{INPUT_NAME}' has shape {shape or 'none'}, and only its batch may be open",
                hint="Export with a fixed image size",
            )
        if shape[0] != -1:
            return
        profile = self.builder.create_optimization_profile()
        largest = (options.max_batch, *shape[1:])
        profile.set_shape(INPUT_NAME, (1, *shape[1:]), largest, largest)
        config.add_optimization_profile(profile)

    def _attach_timing_cache(self, config: Any, raw: bytes) -> Any:
        if self.trt.package == "tensorrt_rtx":  # compiles ahead of time and measures nothing
            return None
        cache = config.create_timing_cache(raw)
        if cache is None:  # damaged
            logger.warning("the kernel times kept from earlier builds cannot be read, and are measured again")
            cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
        return cache


def load_tensorrt(package: PackageName) -> TensorRt:
    """Import the package.

    Raises:
        MissingPackageError: not installed; says how a Jetson or a desktop gets it. BackendError: does not import.
    """
    if package == "tensorrt_rtx":
        module = import_package(package, needed_for="building and running this plan", extra="tensorrt")
    else:
        try:
            module = import_package(package, needed_for="building and running this plan", extra="tensorrt")
        except MissingPackageError:
            raise MissingPackageError(
                package, needed_for="building and running this bundle on a Jetson", install=JETSON_INSTALL
            ) from None
    return TensorRt(package, module, str(module.__version__))


def install_hint(package: PackageName) -> str:
    """How to get the package."""
    return install_command("tensorrt") if package == "tensorrt_rtx" else JETSON_INSTALL


def _made(make: Callable[[], Any], log: Any, what: str, hint: str) -> Any:
    """TensorRT's factories give None, or TypeError from the binding, where there is no GPU."""
    try:
        made = make()
    except TypeError as error:
        raise BackendError(f"{what} ({log.last_errors() or error})", hint=hint) from None
    if made is None:
        raise BackendError(f"{what} ({log.last_errors()})", hint=hint)
    return made


def _describe(error: Any) -> str:
    """A parser error in one line."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    place = f"{operator} '{name}': " if name or operator else ""
    return f"{place}{error.desc()}"


def _make_log(trt: Any) -> Any:
    """TensorRT's log as ours; remembers the errors, which the API itself does not give."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []
            self._layers: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            kinds, level = trt.ILogger.Severity, logging.DEBUG
            if text.startswith(_LAYERS):
                self._layers.append(text.removeprefix(_LAYERS))
            if severity <= kinds.WARNING and not any(part in text for part in _NOISE):
                level = logging.INFO if severity == kinds.WARNING else logging.WARNING
            if level == logging.WARNING:
                self._errors.append(text.strip())
            logger.log(level, "tensorrt: %s", text.strip())

        def last_errors(self) -> str:
            return "; ".join(self._errors[-3:])

        def list_layers(self) -> str:
            """Of the plan that was built last, a line each."""
            return self._layers[-1] if self._layers else ""

    return Log()


def make_profiler(trt: Any) -> Any:
    """A profiler that keeps `times_ms`, of each layer, a time for each run."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times_ms: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times_ms.setdefault(layer_name, []).append(ms)

    return Profiler()


def _make_monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's phases as our progress; only the outermost, the others are too short to see."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 0)
            if steps:
                progress.step("build plan", steps, steps, phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                progress.step("build plan", step, self._steps[phase_name], phase_name)
            return True

    return Monitor()
