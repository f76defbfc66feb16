"""Cross-layer equalisation: two convolutions in a row share out their ranges, and compute what they did before.

With f(s x) = s f(x) for s > 0, as ReLU and LeakyReLU have it, channel i of the tensor between two convolutions may be
divided by any s_i in the first and multiplied by it in the second. With r1_i the largest weight that makes the
channel and r2_i the largest that reads it, s_i = sqrt(r1_i / r2_i) makes both sqrt(r1_i r2_i).

Source: Nagel et al., "Data-free quantization through weight equalization and bias correction", arXiv 1906.04721,
section 4.1, equations 7-11.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

from edgeyolo.quantization.calibrate.scales import SMALLEST_RANGE
from edgeyolo.quantization.placement.operators import operator_name

logger = logging.getLogger(__name__)

_SWEEPS = 40
_CONVERGED = 1e-3  # largest relative change of a channel in one sweep
_HOMOGENEOUS = {"ReLU", "LeakyReLU", "Identity", "Dropout", "relu", "leaky_relu"}

Pair = tuple[str, str]


def equalize(deploy: fx.GraphModule, layers: Iterable[str]) -> fx.GraphModule:
    """A copy of a deploy form, the same function, with the weights of neighbouring `layers` balanced.

    Args:
        layers: module paths of the int8 layers; others are left as they are.
    """
    balanced = copy.deepcopy(deploy)
    names = list(layers)
    pairs = find_pairs(balanced, names)
    sweeps, change = 0, float("inf")
    with torch.no_grad():
        while pairs and change > _CONVERGED and sweeps < _SWEEPS:
            change = max(_balance(balanced, pair) for pair in pairs)
            sweeps += 1
    skipped = len(names) - len({path for pair in pairs for path in pair})
    message = "equalized %d pairs of layers in %d sweeps; %d of %d int8 layers are in no pair"
    logger.log(logging.INFO if pairs else logging.WARNING, message, len(pairs), sweeps, skipped, len(names))
    return balanced


def find_pairs(deploy: fx.GraphModule, layers: Iterable[str]) -> list[Pair]:
    """Module paths of convolutions that can be balanced, first and second, in graph order.

    Both are among `layers`, called once, of one group, and nothing but ReLU, LeakyReLU or what changes nothing is
    between them; nobody else reads what is.
    """
    modules = dict(deploy.named_modules())
    calls: dict[str, list[fx.Node]] = {}
    for node in deploy.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    known = {
        path
        for path in layers
        if isinstance(modules[path], nn.Conv2d) and modules[path].groups == 1 and len(calls.get(path, [])) == 1
    }
    pairs = [(path, _next_layer(calls[path][0], modules)) for path in calls if path in known]
    return [(first, second) for first, second in pairs if second in known]


def _next_layer(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The module that reads the output of a layer through homogeneous operators only; "" if another reader is there."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d):
            return str(node.target)
        if node.op == "output" or operator_name(node, modules) not in _HOMOGENEOUS:
            return ""
    return ""


def _balance(module: nn.Module, pair: Pair) -> float:
    """Balance one pair in place; returns the largest relative change of a channel."""
    first, second = (module.get_submodule(path) for path in pair)
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    makes, reads = first.weight.abs().amax((1, 2, 3)), second.weight.abs().amax((0, 2, 3))
    is_alive = (makes > SMALLEST_RANGE) & (reads > SMALLEST_RANGE)
    factors = torch.where(is_alive, (makes.double() / reads.clamp(min=SMALLEST_RANGE)).sqrt(), 1.0).to(makes.dtype)
    first.weight.div_(factors[:, None, None, None])
    if isinstance(first.bias, Tensor):
        first.bias.div_(factors)
    second.weight.mul_(factors[None, :, None, None])
    return float((factors - 1.0).abs().max())
