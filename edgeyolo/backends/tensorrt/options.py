"""How a plan is built: the engine options of a target, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from edgeyolo.backends._artefact import check_option_names
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.target import Option

PackageName = Literal["tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True)
class Options:
    """Build options, as in a target's `engine_options`.

    Attributes:
        package: the Python package that builds and runs: `tensorrt` on Jetsons and servers, `tensorrt_rtx` on desktops.
        strongly_typed: types as the graph states them (TensorRT 10 and later); False for 8, which has builder flags.
        workspace_mib: memory that layers may use while they run; 0 for all there is.
        builder_level: 0 (fast build) to 5 (fast plan), -1 for TensorRT's own choice.
        timing_cache: keep measured kernel times, so that a second build is quicker.
        dla_core: DLA core to run on, -1 for the GPU.
        gpu_fallback: let layers that DLA cannot run go to the GPU.
        max_batch: largest batch of a graph whose batch is open.
        sparse_weights: let layers whose weights are 2:4 sparse skip the zeros; `build` sets it where there are such.
        candidates: rows that leave the graph with in-graph post-processing.
        cuda_graph: capture a run and replay it.
        zero_copy: let the GPU read and write the memory of the CPU, where they share it; elsewhere there are copies.
        versions: of the package that may build and run, PEP 440; "" for any. `build` takes them from the target.
    """

    package: PackageName = "tensorrt"
    strongly_typed: bool = True
    workspace_mib: int = 0
    builder_level: int = -1
    timing_cache: bool = True
    dla_core: int = -1
    gpu_fallback: bool = True
    max_batch: int = 1
    sparse_weights: bool = False
    candidates: int = 1000
    cuda_graph: bool = True
    zero_copy: bool = False
    versions: str = ""


_RANGES = {
    "workspace_mib": (0, 1 << 20),
    "builder_level": (-1, 5),
    "dla_core": (-1, 1),
    "max_batch": (1, 256),
    "candidates": (1, 3840),
}
# What a plan does not depend on: left out of the key of the build cache.
_NOT_OF_THE_PLAN = ("timing_cache", "cuda_graph", "zero_copy", "versions")


def make_options(values: Mapping[str, Option]) -> Options:
    """Options from a target or a manifest.

    Raises:
        UnknownNameError: an option that does not exist. UsageError: a value of another type, or out of its range.
    """
    fields = {field.name: field for field in dataclasses.fields(Options)}
    check_option_names(values, list(fields), engine="tensorrt")
    for name, value in values.items():
        if type(value) is not type(fields[name].default):
            wanted = type(fields[name].default).__name__
            raise UsageError(f"tensorrt option {name} is {value!r}", hint=f"Give a {wanted}")
        low, high = _RANGES.get(name, (None, None))
        if low is not None and high is not None and not low <= cast(int, value) <= high:
            raise UsageError(f"tensorrt option {name} is {value}", hint=f"Give a number from {low} to {high}")
    if values.get("package", "tensorrt") not in ("tensorrt", "tensorrt_rtx"):
        raise UsageError(f"tensorrt option package is {values['package']!r}", hint="Give tensorrt or tensorrt_rtx")
    return dataclasses.replace(Options(), **values)  # type: ignore[arg-type]


def plan_options(options: Options) -> dict[str, Option]:
    """What the plan depends on."""
    values = dataclasses.asdict(options)
    return {name: value for name, value in values.items() if name not in _NOT_OF_THE_PLAN}
