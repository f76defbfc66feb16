"""What an ncnn network does in memory: the type of what each layer reads and writes, and how long it takes."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.layers import LayerReport, LayerRun, make_layer_report
from edgeyolo.spec.target import Option

FLOAT_BITS = 32
_CONVERTING = ("Quantize", "Dequantize", "Requantize", "Cast", "Packing")


@dataclass(frozen=True)
class RunLayer:
    """One layer in one run.

    Attributes:
        kind: ncnn's word.
        ms: that it took.
        takes_bits, gives_bits: of a number of its first input and output, as they lay in memory.
    """

    name: str
    kind: str
    ms: float
    takes_bits: int
    gives_bits: int


class LayerSession(Protocol):
    """What runs a network layer by layer."""

    def run_layers(self, image: npt.NDArray[np.float32]) -> list[RunLayer]:
        """Every layer of one run on a picture (3, H, W), in order."""


def report_layers(
    session: LayerSession,
    image: npt.NDArray[np.float32],
    int8: Collection[str],
    options: Mapping[str, Option],
    *,
    runs: int,
) -> LayerReport:
    """The precision of each layer, and the median of its time.

    Args:
        int8: layers whose weights are int8; ncnn multiplies those in integers, whatever type they read.
        options: of the engine.
    """
    session.run_layers(image)  # warms up
    taken = [session.run_layers(image) for _ in range(runs)]
    half = "bf16" if options.get("use_bf16_storage") else "fp16"
    stored = {8: "int8", 16: half, FLOAT_BITS: "fp32"}
    computed = {**stored, 16: half if half == "bf16" or options.get("use_fp16_arithmetic") else "fp32"}
    rows = [
        LayerRun(
            name=layer.name,
            kind=layer.kind,
            precision="int8" if layer.name in int8 else computed[layer.gives_bits],
            takes=stored[layer.takes_bits],
            gives=stored[layer.gives_bits],
            is_conversion=layer.kind in _CONVERTING,
            ms=statistics.median(one[place].ms for one in taken),
        )
        for place, layer in enumerate(taken[0])
    ]
    return make_layer_report(rows, method="ncnn, run layer by layer; types as they lay in memory", runs=runs)
