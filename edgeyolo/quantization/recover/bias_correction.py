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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeyolo.quantization.calibrate.ranges import Picture, in_batches, share_of
from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.placement.groups import Placement
from edgeyolo.quantization.quantizers import insert_quantizers
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.training.device import exact_convolutions
from edgeyolo.training.distributed import current_world

PICTURES = 64  # a channel's mean over all positions of so many is known to a small part of its rounding error

Biases = dict[str, tuple[float, ...]]
_Sums = dict[str, tuple[Tensor, int]]  # module path -> (out_chs,) float64 summed error, and of how many values


def corrected_biases(
    deploy: fx.GraphModule,
    placement: Placement,
    scales: Scales,
    pictures: Iterable[Picture],
    progress: Progress = SILENT,
) -> Biases:
    """Module path of each int8 layer -> the bias that brings the mean of each output channel back.

    Args:
        pictures: network inputs (B, 3, H, W) float32, of which processes that have joined take a share each; at least
            the first 64 are used.
        progress: told after each batch, in pictures.
    """
    world, device = current_world(), next(deploy.parameters()).device
    most = len(range(world.rank, PICTURES, world.size))

    def measure() -> _Sums:
        errors = _MeanErrors(deploy, placement, insert_quantizers(deploy, placement, scales))
        seen = 0
        with torch.no_grad(), exact_convolutions():
            for batch in in_batches(share_of(pictures, world), device):
                errors.run(batch)
                seen += len(batch)
                progress.step("correct biases", min(seen, most), most)
                if seen >= most:
                    break
        return errors.sums

    parts = world.collect(measure)
    means = world.by_first(lambda: _means(parts))
    return {path: _corrected(deploy.get_submodule(path), mean) for path, mean in means.items()}


def with_biases(deploy: fx.GraphModule, biases: Mapping[str, tuple[float, ...]]) -> fx.GraphModule:
    """A copy of a deploy form with other biases; a layer without one gets one."""
    changed = copy.deepcopy(deploy)
    for path, values in biases.items():
        layer = changed.get_submodule(path)
        layer.bias = nn.Parameter(torch.tensor(values, dtype=torch.float32, device=next(layer.parameters()).device))
    return changed


def _means(parts: Sequence[_Sums]) -> dict[str, Tensor]:
    """Module path -> (out_chs,) float64 mean error of each output channel, from the sums of each process."""
    paths = dict.fromkeys(path for part in parts for path in part)
    found = {}
    for path in paths:
        totals, counts = zip(*(part[path] for part in parts if path in part), strict=True)
        found[path] = torch.stack(totals).sum(0) / sum(counts)
    return found


def _corrected(layer: nn.Module, mean_error: Tensor) -> tuple[float, ...]:
    bias = layer.bias.detach().double().cpu() if isinstance(layer.bias, Tensor) else torch.zeros_like(mean_error)
    return tuple((bias - mean_error).float().tolist())


class _MeanErrors(fx.Interpreter):
    """Runs a float graph, and beside each int8 layer the quantized one on the same input."""

    def __init__(self, deploy: fx.GraphModule, placement: Placement, fake_quant: fx.GraphModule) -> None:
        super().__init__(deploy)
        self._groups = {path: placement.layers[path].group for path in placement.int8_layers()}
        self._fake_quant = fake_quant
        self.sums: _Sums = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; if it is an int8 layer, add up what quantization does to its output."""
        value = super().run_node(n)
        path = str(n.target)
        if n.op == "call_module" and path in self._groups:
            layer = self._fake_quant.get_submodule(path)
            quantizer = self._fake_quant.get_submodule(f"quantizers.{self._groups[path]}")
            error = layer(quantizer(self.env[n.all_input_nodes[0]])) - value
            rows = error.flatten(2).sum(2).double() if isinstance(layer, nn.Conv2d) else error.flatten(0, -2).double()
            total, count = self.sums.get(path, (0, 0))
            self.sums[path] = total + rows.sum(0).cpu(), count + error.numel() // rows.shape[1]
        return value
