"""The range of each scale group by what it costs at the end of the network: scores and boxes, not values in between.

The least squared error of a tensor's own values clips what is rare, and what is rare may be what an object looks like.
So ranges from a little below that one up to the largest magnitude are tried on a few pictures, one group at a time and
everything else float. A picture's float values are kept while all ranges of all groups are tried on it, and only what
comes after a group is computed again: one picture is in memory, no labels are needed, and no order matters.

What a group costs at its own range says as well which few layers are worth keeping float: the errors of all groups add
up to nearly that of the whole network.

Source: Nahshan et al., "Loss Aware Post-training Quantization", arXiv 1911.07190, sections 3 and 4.
Differs: the loss is the distance from the float model's own detections, and groups are looked at one by one, for their
errors at 8 bits are small enough to add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgeyolo.quantization.calibrate.observers import MseObserver
from edgeyolo.quantization.calibrate.scales import Scales, integer_limit
from edgeyolo.quantization.output_distance import output_distance
from edgeyolo.quantization.placement.groups import Placement
from edgeyolo.quantization.quantizers import make_activation_quantizer
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.model import RawDecode
from edgeyolo.spec.progress import SILENT, Progress

PICTURES = 8
_RANGES = 6  # tried per group
_BELOW = 0.8  # of the range of least squared error, where the trying starts
_ALIKE = 1.05  # ranges that are nearer to each other than this factor are not told apart
_NO_VERDICT_BEFORE = 2  # pictures, of which the first may show nothing
_HOPELESS = 1.5  # times the least error: a range that has more by then is tried no further

Ranges = Mapping[str, tuple[float, ...]]


def ranges_to_try(observer: MseObserver) -> tuple[float, ...]:
    """Ranges in equal ratios, from a little below that of least squared error to the largest magnitude seen."""
    least, largest = observer.threshold(), observer.histogram.largest
    if largest <= least * _ALIKE:
        return (least,)
    ratio = (largest / (_BELOW * least)) ** (1 / (_RANGES - 1))
    return tuple(_BELOW * least * ratio**i for i in range(_RANGES))


@torch.no_grad()
def choose_ranges(
    deploy: fx.GraphModule,
    placement: Placement,
    ranges: Ranges,
    pictures: Sequence[Tensor],
    *,
    decode: RawDecode | None = None,
    progress: Progress = SILENT,
) -> dict[str, float]:
    """Name of each group -> the one of its ranges with the least `output_distance` from the float outputs.

    Args:
        ranges: name of each group of `placement` -> ranges to try, in rising order.
        pictures: network inputs (B, 3, H, W) float32; the first 8 are used.
        decode: of the model; without it raw values are compared.
        progress: told after each picture.

    Raises:
        QuantizationError: an output is not finite.
    """
    trials = _Trials(deploy, placement)
    errors = {group: dict.fromkeys(tried, 0.0) for group, tried in ranges.items()}
    chosen = pictures[:PICTURES]
    for done, picture in enumerate(chosen, start=1):
        image_hw = (picture.shape[2], picture.shape[3])
        expected = trials.start(picture.to(next(deploy.parameters()).device))
        for group, left in errors.items():
            if len(left) > 1:
                for threshold in left:
                    left[threshold] += output_distance(expected, trials.rounded(group, threshold), decode, image_hw)
                if done >= _NO_VERDICT_BEFORE:
                    errors[group] = _without_hopeless(left)
        progress.step("choose ranges", done, len(chosen))
    return {group: min(left, key=left.__getitem__) for group, left in errors.items()}


@torch.no_grad()
def costly_layers(
    deploy: fx.GraphModule,
    placement: Placement,
    scales: Scales,
    pictures: Sequence[Tensor],
    share: float,
    *,
    decode: RawDecode | None = None,
    progress: Progress = SILENT,
) -> dict[str, str]:
    """Module path -> why, of the layers that carry `share` of the error of rounding tensors, with the least work.

    Groups are taken by their error per multiplication, the most costly first; one group is always left.

    Args:
        scales: of `placement`.
        pictures, decode, progress: as for `choose_ranges`.
        share: in [0, 1).

    Raises:
        QuantizationError: an output is not finite.
    """
    trials = _Trials(deploy, placement)
    errors = dict.fromkeys(placement.groups, 0.0)
    chosen = pictures[:PICTURES]
    for done, picture in enumerate(chosen, start=1):
        image_hw = (picture.shape[2], picture.shape[3])
        expected = trials.start(picture.to(next(deploy.parameters()).device))
        for group in errors:
            maps = trials.rounded(group, scales.groups[group] * integer_limit(8))
            errors[group] += output_distance(expected, maps, decode, image_hw)
        progress.step("find costly layers", done, len(chosen))
    work = {group: trials.multiplications(group) for group in errors}
    wanted, found = share * sum(errors.values()), 0.0
    costly: dict[str, str] = {}
    for group in sorted(errors, key=lambda name: errors[name] / work[name], reverse=True)[:-1]:
        if found >= wanted:
            break
        found += errors[group]
        part = errors[group] / sum(errors.values())
        costly |= dict.fromkeys(placement.groups[group].layers, f"rounding its input makes {part:.0%} of the error")
    return costly


def _without_hopeless(errors: dict[float, float]) -> dict[float, float]:
    """Range -> error so far, without those that have far more than the best one, or none that is a number."""
    finite = {threshold: error for threshold, error in errors.items() if math.isfinite(error)} or errors
    most = _HOPELESS * min(finite.values())
    return {threshold: error for threshold, error in finite.items() if error <= most} or finite


class _Trials(fx.Interpreter):
    """Runs a float graph on some pictures, then what comes after a group again, with that group's tensors rounded."""

    def __init__(self, deploy: fx.GraphModule, placement: Placement) -> None:
        super().__init__(deploy, garbage_collect_values=False)
        self._float: dict[fx.Node, Any] = {}
        self._calls = {name: self._list_calls(group.layers) for name, group in placement.groups.items()}
        self._after = {name: self._list_after(calls) for name, calls in self._calls.items()}

    def start(self, pictures: Tensor) -> list[Tensor]:
        """The float outputs of the pictures that the trials are of."""
        maps = [raw.cpu() for raw in self.run(pictures)]
        if not all(bool(torch.isfinite(raw).all()) for raw in maps):
            hint = "Check the weights and the pictures"
            raise QuantizationError("an output has values that are not finite numbers", hint=hint)
        self._float = self.env
        return maps

    def rounded(self, group: str, threshold: float) -> list[Tensor]:
        """The outputs with the tensors that the layers of a group read rounded to steps of `threshold` / 127."""
        quantizer = make_activation_quantizer(threshold / integer_limit(8)).to(next(self.module.parameters()).device)
        self.env = dict(self._float)
        for node in self._after[group]:
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            if node in self._calls[group]:
                args = (quantizer(args[0]), *args[1:])
            self.env[node] = getattr(self, node.op)(node.target, args, kwargs)
        return [raw.cpu() for raw in self.env[node]]

    def multiplications(self, group: str) -> int:
        """What the layers of a group multiply for the pictures that the trials are of."""
        weights = {node: self.fetch_attr(f"{node.target}.weight") for node in self._calls[group]}
        return sum(self._float[node].numel() * weight[0].numel() for node, weight in weights.items())

    def _list_calls(self, layers: Sequence[str]) -> set[fx.Node]:
        return {node for node in self.graph.nodes if node.op == "call_module" and node.target in layers}

    def _list_after(self, calls: set[fx.Node]) -> list[fx.Node]:
        """Nodes to compute again, in the order of the graph; the output is the last."""
        after = set(calls)
        for node in self.graph.nodes:
            if any(source in after for source in node.all_input_nodes):
                after.add(node)
        return [node for node in self.graph.nodes if node in after]
