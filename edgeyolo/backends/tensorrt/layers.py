"""The layers of a plan, as TensorRT itself lists them.

The engine's inspector gives the list where a GPU is; without one, the builder says the same, line by line, to its log
when it has built. Both need plans that were built with detailed profiling names, as ours are.

Source: NVIDIA TensorRT documentation, Engine Inspector, and what tensorrt_rtx 1.7 writes.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from edgeyolo.spec.layers import LayerRun

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"(?:Constants: \[(?P<constants>.*?)\], )?Outputs: (?P<rest>.*)"
)
_TYPE = re.compile(r"Datatype: (\w+)|Format/Datatype: [^,}]*?(Int8|FP16|FP32|BF16)", re.IGNORECASE)
_WEIGHTS = re.compile(r"Weights: \{?\W*Type\W+(\w+)")  # of a layer that is no compiled kernel
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_PRECISIONS = {
    "int8": "int8",
    "fp8": "fp8",
    "half": "fp16",
    "fp16": "fp16",
    "float": "fp32",
    "fp32": "fp32",
    "bf16": "bf16",
}
_SYNCHRONIZING = ("signal", "wait")  # of streams: no work
_CONVERTING = ("reformat", "cast", "noop")
# Kernels that are made for a chain of operators are named by them: rounding to int8 alone, a copy, a change of type.
_CONVERTING_CHAIN = re.compile(r"__myl_(?:(?:Cast)?Mul(?:MinMax)?Roun(?:Cast)?(?:Conc)?|(?:Cast|Move)+)_myl")


def parse_layers(text: str, times_ms: Mapping[str, Sequence[float]] | None = None) -> Iterator[LayerRun]:
    """Layers from lines of the inspector, or of the builder's log; other lines are passed over.

    Args:
        times_ms: of each layer, by the profiler.
    """
    for line in text.splitlines():
        found = _LINE.search(line)
        if found is None:
            name = line.strip() if times_ms and line.strip() in times_ms else ""
            if name:  # a plan without details: names are all that it has
                yield LayerRun(name=name, kind="", ms=_median(times_ms, name))
            continue
        name, kind = found["name"], found["kind"]
        if kind not in _SYNCHRONIZING:
            takes, gives = _first_type(found["inputs"]), _first_type(found["rest"])
            weights = _first_type(found["constants"] or "") or _weight_type(found["rest"])
            is_named_so = any(word in kind.lower() for word in _CONVERTING)
            yield LayerRun(
                name=name,
                kind=_describe(kind, _ORIGIN.findall(line)),
                precision=_precision(takes, weights, gives),
                takes=takes,
                gives=gives,
                is_conversion=is_named_so or _CONVERTING_CHAIN.match(name) is not None,
                ms=_median(times_ms, name),
            )


def _median(times_ms: Mapping[str, Sequence[float]] | None, name: str) -> float | None:
    return statistics.median(times_ms[name]) if times_ms and name in times_ms else None


def _first_type(tensors: str) -> str:
    """Precision of the first of some tensors, "" where none is of a kind that counts."""
    for written in _TYPE.findall(tensors):
        precision = _PRECISIONS.get("".join(written).lower())
        if precision:
            return precision
    return ""


def _weight_type(rest: str) -> str:
    found = _WEIGHTS.search(rest)
    return _PRECISIONS.get(found[1].lower(), "") if found else ""


def _precision(takes: str, weights: str, gives: str) -> str:
    """int8 where what is read is, weights too if there are any; the float that it passes through otherwise."""
    if takes == "int8" and "int8" in (weights, gives):
        return "int8"
    return next((kind for kind in (takes, gives) if kind != "int8"), takes)


def _describe(kind: str, origins: Iterable[str]) -> str:
    """TensorRT's word, and the operators of ours that are in it, without their Q/DQ."""
    operators = dict.fromkeys(origin.rsplit("/", 1)[-1] for origin in origins if not origin.startswith("qdq/"))
    return f"{kind} ({', '.join(operators)})" if operators else kind
