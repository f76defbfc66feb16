"""Why each layer runs as it does, and which tensors carry one scale: the placement, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.placement.groups import Placement, tensors_by_group
from edgeyolo.quantization.placement.operators import CONVOLUTIONS, LAYERS, Effect, Modules, effect_of, operator_name

_CAUSES = {
    Effect.JOIN: "puts the values of its inputs side by side",
    Effect.SELECT: "picks some of its input's values",
    Effect.VIEW: "arranges its input's values",
    Effect.ADD: "adds operands of one scale",
}


@dataclass(frozen=True)
class GroupRow:
    """One scale and what carries it.

    Attributes:
        tensors: names of the fx nodes that int8 layers read.
        layers: module paths that read them.
        joined_by: "node (operator): what it does" for each operator that makes them one.
        scale: real value of one integer step, None before calibration.
    """

    name: str
    tensors: tuple[str, ...]
    layers: tuple[str, ...]
    joined_by: tuple[str, ...]
    scale: float | None


@dataclass(frozen=True)
class LayerRow:
    """How one layer runs, and why.

    Attributes:
        kind: such as "Conv2d 3x3/2, 32 -> 64".
        group: that its input carries; "" if float.
    """

    path: str
    kind: str
    precision: str
    group: str
    inputs: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Explanation:
    """A placement in words; as a string, two tables for people."""

    groups: tuple[GroupRow, ...]
    layers: tuple[LayerRow, ...]
    unsupported: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((*self._group_lines(), "", *self._layer_lines(), *self._unsupported_lines()))

    def _group_lines(self) -> Iterator[str]:
        yield f"{len(self.groups)} scale groups: the tensors of a group carry one scale"
        for group in self.groups:
            scale = "" if group.scale is None else f", scale {group.scale:.6g}"
            yield f"  {group.name}: {_count(group.tensors, 'tensor')}, {_count(group.layers, 'layer')}{scale}"
            yield f"    tensors   {', '.join(group.tensors)}"
            yield f"    read by   {', '.join(group.layers)}"
            yield from (f"    one by    {cause}" for cause in group.joined_by)

    def _layer_lines(self) -> Iterator[str]:
        int8 = sum(row.precision == "int8" for row in self.layers)
        yield f"{len(self.layers)} layers: {int8} int8, {len(self.layers) - int8} float"
        if not self.layers:
            return
        widths = [max(len(row.path) for row in self.layers), max(len(row.kind) for row in self.layers)]
        for row in self.layers:
            figures = f"{row.precision:5}  {row.group:4}  {row.path:{widths[0]}}  {row.kind:{widths[1]}}"
            yield f"  {figures}  {row.why}"

    def _unsupported_lines(self) -> Iterator[str]:
        if self.unsupported:
            yield ""
            yield "Operators whose effect on a scale is not known; the layers that read them stay float:"
            yield from (f"  {operator}" for operator in self.unsupported)


def explain(placement: Placement, deploy: fx.GraphModule, scales: Scales | None = None) -> Explanation:
    """Put a placement into words.

    Args:
        deploy: the graph that the placement was found on.
        scales: of the placement, if it has been calibrated.
    """
    modules = dict(deploy.named_modules())
    nodes = {node.name: node for node in deploy.graph.nodes}
    members = tensors_by_group(deploy, placement)
    groups = [
        GroupRow(
            name=name,
            tensors=group.tensors,
            layers=group.layers,
            joined_by=tuple(_causes([nodes[tensor] for tensor in members[name]], deploy, modules)),
            scale=None if scales is None else scales.groups[name],
        )
        for name, group in placement.groups.items()
    ]
    layers = [
        LayerRow(path, layer_kind(modules[path]), plan.precision, plan.group, plan.inputs, plan.why)
        for path, plan in placement.layers.items()
    ]
    return Explanation(tuple(groups), tuple(layers), placement.unsupported)


def layer_kind(module: nn.Module) -> str:
    """A module in a few characters: "Conv2d 3x3/2, 32 -> 64", "LeakyReLU", "MaxPool2d 5x5/1"."""
    name = type(module).__name__
    if isinstance(module, nn.Linear):
        return f"{name} {module.in_features} -> {module.out_features}"
    if isinstance(module, CONVOLUTIONS):
        groups = f", {module.groups} groups" if module.groups > 1 else ""
        kernel = "x".join(map(str, module.kernel_size))
        return f"{name} {kernel}/{module.stride[0]}, {module.in_channels} -> {module.out_channels}{groups}"
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        size, stride = _first(module.kernel_size), _first(module.stride)
        return f"{name} {size}x{size}/{stride}"
    return name


def _causes(members: list[fx.Node], deploy: fx.GraphModule, modules: Modules) -> Iterator[str]:
    """The operators that make some tensors one group."""
    inside = set(members)
    for node in deploy.graph.nodes:
        effect = effect_of(node, modules)
        touched = [n for n in node.all_input_nodes if n in inside]
        joins = (effect is Effect.ADD and len(touched) > 1) or (node in inside and touched and effect in _CAUSES)
        if joins:
            yield f"{node.name} ({operator_name(node, modules)}): {_CAUSES[effect]}"
    for path, count in _repeated_calls(members, modules).items():
        yield f"{path}: one layer, called {count} times"


def _repeated_calls(members: list[fx.Node], modules: Modules) -> dict[str, int]:
    """Layers that read more than one of some tensors."""
    calls: dict[str, int] = {}
    for node in members:
        for user in node.users:
            if user.op == "call_module" and isinstance(modules[str(user.target)], LAYERS):
                calls[str(user.target)] = calls.get(str(user.target), 0) + 1
    return {path: count for path, count in calls.items() if count > 1}


def _first(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def _count(things: tuple[str, ...], noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"
