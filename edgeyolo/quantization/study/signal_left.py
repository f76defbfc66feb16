"""How much of the float signal is left: layer by layer inside a quantized model, and in its head maps.

SQNR is the signal-to-quantization-noise ratio, 10 log10(sum of signal^2 / sum of error^2) in decibels: 20 dB is an
error of 10 %, 40 dB of 1 %. It is kept within +-150 dB, which is where float32 ends; no error at all gives 150.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor, fx, nn

from edgeyolo.quantization.calibrate.ranges import Picture, check_batch
from edgeyolo.quantization.output_distance import score_divergence
from edgeyolo.quantization.quantize import Quantized
from edgeyolo.quantization.quantizers import is_quantizer_call
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.model import Decode
from edgeyolo.spec.progress import SILENT, Progress

SQNR_LIMIT_DB = 150.0


class LayerSignal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One convolution or linear layer against its float self.

    Attributes:
        path: module path.
        sqnr_db: of its output, everything before it quantized too.
        own_sqnr_db: of its output when it reads the float tensor, so that only its own input and weight are quantized.
    """

    path: str
    sqnr_db: float
    own_sqnr_db: float


def layer_sqnr(quantized: Quantized, pictures: Iterable[Picture], progress: Progress = SILENT) -> list[LayerSignal]:
    """SQNR of every layer over all pictures, in the order they are first called.

    Both models run side by side, node by node, so that no more than two copies of what one forward pass holds is in
    memory; of the pictures only sums are kept. The float model is `float_deploy`, with the weights that ship.

    Args:
        pictures: (B, 3, H, W) float32 network inputs.
        progress: told after each batch.

    Raises:
        QuantizationError: no pictures, or one of a wrong shape.
    """
    pair = _PairInterpreter(quantized)
    done = 0
    with torch.no_grad():
        for picture in pictures:
            batch = check_batch(picture).to(_device(quantized.fake_quant))
            pair.run(batch, enable_io_processing=False)
            done += len(batch)
            progress.step("layer signal", done, 0)
    if not done:
        raise QuantizationError("no pictures to compare the layers on", hint="Give at least one")
    return [
        LayerSignal(path, pair.outputs[path].decibels(), pair.own[path].decibels())
        for path in quantized.placement.layers
    ]


def map_distance(
    float_maps: Sequence[Tensor], maps: Sequence[Tensor], decode: Decode | None = None
) -> tuple[float, float]:
    """How far head maps are from the float ones: SQNR in dB, and the KL divergence of the class scores.

    SQNR is of the noise-to-signal ratios of the maps, each over all its channels and pictures, averaged, so that a map
    with small values counts as much as one with large ones.

    Each score s of the float model and t of the other is the probability that this prediction is of this class, so KL
    is of two Bernoulli distributions, s ln(s / t) + (1 - s) ln((1 - s) / (1 - t)), summed over predictions and classes,
    divided by the number of pictures: nats per picture, 0 for equal scores. Where the float model is sure that there is
    nothing, s is nearly 0 and adds little, so this looks at objects more than SQNR does. The scores are those that the
    runtime ranks by: the class logits' sigmoid, times that of the objectness where the head has one. Box values
    count in SQNR only.

    Args:
        float_maps, maps: raw maps (B, C, H/s, W/s) of the same B pictures, in the order `decode` states.
        decode: None takes every value of every map for the logit of a score.
    """
    noise = _Power()
    for ours, theirs in zip(float_maps, maps, strict=True):
        noise.add_ratio(ours, theirs)
    return noise.decibels(), score_divergence(float_maps, maps, decode) / len(float_maps[0])


@torch.no_grad()
def head_maps(module: nn.Module, pictures: Sequence[Tensor]) -> list[Tensor]:
    """Raw maps of all pictures, joined along the batch and kept on the CPU.

    Args:
        module: gives one map or a sequence of maps.
        pictures: (B, 3, H, W) float32 network inputs, at least one.

    Raises:
        QuantizationError: a map holds values that are not finite.
    """
    device = _device(module)
    runs = [_as_maps(module(batch.to(device))) for batch in pictures]
    maps = [torch.cat(parts) for parts in zip(*runs, strict=True)]
    for position, raw in enumerate(maps):
        if not bool(torch.isfinite(raw).all()):
            hint = "Check the weights and the pictures"
            raise QuantizationError("has values that are not finite numbers", where=f"map_{position}", hint=hint)
    return maps


def _as_maps(output: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [m.float().cpu() for m in ([output] if isinstance(output, Tensor) else output)]


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@dataclass
class _Power:
    """Running sums of squares of a signal and of the error in it."""

    signal: float = 0.0
    error: float = 0.0

    def add(self, expected: Tensor, found: Tensor) -> None:
        self.signal += float(expected.double().square().sum())
        self.error += float((found.double() - expected).square_().sum())

    def add_ratio(self, expected: Tensor, found: Tensor) -> None:
        """Add a signal of power 1 with its error in proportion; one without any power only if there is no error."""
        power = _Power()
        power.add(expected, found)
        if power.signal > 0.0:
            power = _Power(1.0, power.error / power.signal)
        self.signal += power.signal
        self.error += power.error

    def decibels(self) -> float:
        if self.error == 0.0:
            return SQNR_LIMIT_DB
        if self.signal == 0.0 or not math.isfinite(self.signal + self.error):
            return -SQNR_LIMIT_DB
        ratio = 10.0 * math.log10(self.signal / self.error)
        return min(max(ratio, -SQNR_LIMIT_DB), SQNR_LIMIT_DB)


class _PairInterpreter(fx.Interpreter):
    """Runs the fake-quantized graph with pairs of values, (float, fake-quantized); the float side skips quantizers."""

    def __init__(self, quantized: Quantized) -> None:
        super().__init__(quantized.fake_quant)
        self._float_modules = dict(quantized.float_deploy.named_modules())
        self.outputs = {path: _Power() for path in quantized.placement.layers}
        self.own = {path: _Power() for path in quantized.placement.layers}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node on both sides and, if it is a layer, add up how far they are apart."""
        if n.op in ("placeholder", "get_attr"):
            value = super().run_node(n)
            return value, value.clone() if isinstance(value, Tensor) else value
        if is_quantizer_call(n):
            plain, rounded = self.env[n.all_input_nodes[0]]
            return plain, self.call_module(str(n.target), (rounded,), {})
        expected, found = self._call(n, 0), self._call(n, 1)
        if n.op == "call_module" and n.target in self.outputs:
            self.outputs[str(n.target)].add(expected, found)
            self.own[str(n.target)].add(expected, self._own_output(n))
        return expected, found

    def _call(self, n: fx.Node, side: int) -> Any:
        args = fx.node.map_arg(n.args, lambda source: self.env[source][side])
        kwargs = fx.node.map_arg(n.kwargs, lambda source: self.env[source][side])
        if n.op == "call_module" and side == 0:
            return self._float_modules[str(n.target)](*args, **kwargs)
        return getattr(self, n.op)(n.target, args, kwargs)

    def _own_output(self, n: fx.Node) -> Tensor:
        """What a layer of the fake-quantized graph gives for the float tensor."""
        source = n.all_input_nodes[0]
        tensor = self.env[source][0]
        if is_quantizer_call(source):
            tensor = self.call_module(str(source.target), (tensor,), {})
        output: Tensor = self.call_module(str(n.target), (tensor,), {})
        return output
