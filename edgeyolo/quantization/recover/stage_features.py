"""Distillation of a fake-quantized model from its float copy, stage by stage.

Both share the names of their fx nodes, so that a tensor of one is compared with its namesake of the other.
Source: feature distillation for quantized detectors as NVIDIA's yolov7_qat does it: the squared error of every
top-level block's output. Differs: each is divided by the variance of the float tensor, so that stages weigh the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from edgeyolo.criteria.criterion import sum_over_processes, world_size
from edgeyolo.quantization.placement.operators import Effect, effect_of
from edgeyolo.quantization.quantize import Quantized
from edgeyolo.quantization.recover.equalize import equalize

_SMALLEST_VARIANCE = 1e-12


def stage_tensors(deploy: fx.GraphModule, image_hw: tuple[int, int]) -> list[str]:
    """Names of the fx nodes to compare: what each stage hands to others, and the raw maps; in the order computed.

    A stage is a module two levels below the network, or an element of a container there, such as `neck.spp` or
    `backbone.stages.0.1`. Only maps count: (B, C, h, w) with more than one cell, computed by the stage itself rather
    than rearranged, pooled or joined.

    Args:
        image_hw: of the network input, pixels.
    """
    modules = dict(deploy.named_modules())
    ends = {node for end in deploy.graph.nodes if end.op == "output" for node in end.all_input_nodes}
    candidates = [
        node.name
        for node in deploy.graph.nodes
        if node in ends or (_computes(node, modules) and any(_stage_of(r) != _stage_of(node) for r in node.users))
    ]
    parameter = next(deploy.parameters())
    with torch.no_grad():
        values = expose(deploy, candidates)(parameter.new_zeros(1, 3, *image_hw))[-len(candidates) :]
    final = {node.name for node in ends}
    return [name for name, value in zip(candidates, values, strict=True) if name in final or _is_map(value)]


def _computes(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    carries = (Effect.VIEW, Effect.SELECT, Effect.JOIN)
    return node.op not in ("placeholder", "get_attr", "output") and effect_of(node, modules) not in carries


def _is_map(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and value.shape[2] * value.shape[3] > 1


def _stage_of(node: fx.Node) -> str:
    """Module path of the stage that a node belongs to; "" for what the network itself computes."""
    if node.op == "call_module":
        path = str(node.target)
    else:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path = str(stack[-1][0]) if stack else ""
    parts = path.split(".")
    depth = 2
    while depth < len(parts) and parts[depth].isdigit():
        depth += 1
    return ".".join(parts[:depth])


def float_teacher(quantized: Quantized) -> fx.GraphModule:
    """The float model whose every tensor is what its namesake in `quantized.fake_quant` should be.

    That is the reference, equalized where the student is. Its biases are the trained ones: corrected biases are right
    only together with the errors that they correct.
    """
    reference = quantized.reference
    if _has_weights_of(reference, quantized.float_deploy):
        return reference
    equalized = equalize(reference, quantized.placement.int8_layers())
    if _has_weights_of(equalized, quantized.float_deploy):
        return equalized
    return quantized.float_deploy


def _has_weights_of(module: fx.GraphModule, other: fx.GraphModule) -> bool:
    """Whether all parameters but biases are the same."""
    pairs = zip(module.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs if mine.dim() > 1)


def expose(module: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """The same modules and parameters, shared; gives the list that `module` gives, then the tensors of the nodes named.

    What is computed before an in-place activation shows as what comes after it, in every model alike.
    """
    graph = copy.deepcopy(module.graph)
    by_name = {node.name: node for node in graph.nodes}
    end = next(node for node in graph.nodes if node.op == "output")
    end.args = ([*end.all_input_nodes, *(by_name[name] for name in names)],)
    return fx.GraphModule(module, graph)


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Scalar float32: sum over tensors of the mean squared error over the variance of the teacher's.

    In a distributed run both are over the pictures of all processes, as `mean_over_processes` wants it.
    """
    wanted = [tensor.float() for tensor in teacher]
    errors = torch.stack([(a.float() - b).square().sum() for a, b in zip(student, wanted, strict=True)])
    counts, variances = _spread(wanted)
    return (errors / counts / variances.clamp(min=_SMALLEST_VARIANCE)).sum()


def _spread(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Number of values and variance of each tensor, (n,) float32; where there are processes, of all of theirs.

    The number is then a mean over the processes.
    """
    processes = world_size()
    counts = tensors[0].new_tensor([float(tensor.numel()) for tensor in tensors])
    if processes == 1:
        return counts, torch.stack([tensor.var(correction=0) for tensor in tensors])
    sums = [(tensor.double().sum(), tensor.double().square().sum()) for tensor in tensors]
    total = sum_over_processes(torch.tensor([[n, *s] for n, s in zip(counts.tolist(), sums, strict=True)]).double())
    count, mean, square = total[:, 0], total[:, 1] / total[:, 0], total[:, 2] / total[:, 0]
    return (count / processes).to(counts), (square - mean.square()).to(counts)
