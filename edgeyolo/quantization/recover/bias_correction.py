"""Bias correction: what quantization adds to the mean of a layer's output is taken off its bias.

Each layer is corrected for its own error, on the inputs that the float model gives it: rounding and clipping of its
input and of its weight. Layers do not wait for one another, so one pass does and one picture is in memory at a time;
and nothing is counted twice, for the error that earlier layers hand on is theirs to correct. What this leaves is the
mean error that an activation function makes of rounding noise.

Source: Nagel et al., "Data-free quantization through weight equalization and bias correction", arXiv 1906.04721,
section 4.2 and appendix D.
Differs: the appendix corrects layers in sequence, a pass over the pictures each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeyolo.quantization.calibrate.ranges import Picture, check_batch
from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.placement.groups import Placement
from edgeyolo.quantization.quantizers import insert_quantizers
from edgeyolo.spec.progress import SILENT, Progress

PICTURES = 64  # a channel's mean over all positions of so many is known to a small part of its rounding error

Biases = dict[str, tuple[float, ...]]


def corrected_biases(
    deploy: fx.GraphModule,
    placement: Placement,
    scales: Scales,
    pictures: Iterable[Picture],
    progress: Progress = SILENT,
) -> Biases:
    """Module path of each int8 layer -> the bias that brings the mean of each output channel back.

    Args:
        pictures: network inputs (B, 3, H, W) float32; at least the first 64 are used.
        progress: told after each batch, in pictures.
    """
    errors = _MeanErrors(deploy, placement, insert_quantizers(deploy, placement, scales))
    seen = 0
    device = next(deploy.parameters()).device
    with torch.no_grad():
        for picture in pictures:
            batch = check_batch(picture)
            errors.run(batch.to(device))
            seen += len(batch)
            progress.step("correct biases", min(seen, PICTURES), PICTURES)
            if seen >= PICTURES:
                break
    return {path: _corrected(deploy.get_submodule(path), mean) for path, mean in errors.means().items()}


def with_biases(deploy: fx.GraphModule, biases: Mapping[str, tuple[float, ...]]) -> fx.GraphModule:
    """A copy of a deploy form with other biases; a layer without one gets one."""
    changed = copy.deepcopy(deploy)
    for path, values in biases.items():
        layer = changed.get_submodule(path)
        layer.bias = nn.Parameter(torch.tensor(values, dtype=torch.float32, device=next(layer.parameters()).device))
    return changed


def _corrected(layer: nn.Module, mean_error: Tensor) -> tuple[float, ...]:
    bias = layer.bias.detach().double().cpu() if isinstance(layer.bias, Tensor) else torch.zeros_like(mean_error)
    return tuple((bias - mean_error).float().tolist())


class _MeanErrors(fx.Interpreter):
    """Runs a float graph, and beside each int8 layer the quantized one on the same input."""

    def __init__(self, deploy: fx.GraphModule, placement: Placement, fake_quant: fx.GraphModule) -> None:
        super().__init__(deploy)
        self._groups = {path: placement.layers[path].group for path in placement.int8_layers()}
        self._fake_quant = fake_quant
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; if it is an int8 layer, add up what quantization does to its output."""
        value = super().run_node(n)
        path = str(n.target)
        if n.op == "call_module" and path in self._groups:
            layer = self._fake_quant.get_submodule(path)
            quantizer = self._fake_quant.get_submodule(f"quantizers.{self._groups[path]}")
            error = layer(quantizer(self.env[n.all_input_nodes[0]])) - value
            rows = error.flatten(2).sum(2).double() if isinstance(layer, nn.Conv2d) else error.flatten(0, -2).double()
            self._sums[path] = self._sums.get(path, 0) + rows.sum(0).cpu()
            self._counts[path] = self._counts.get(path, 0) + error.numel() // rows.shape[1]
        return value

    def means(self) -> dict[str, Tensor]:
        """Module path -> (out_chs,) float64 mean error of each output channel."""
        return {path: total / self._counts[path] for path, total in self._sums.items()}
