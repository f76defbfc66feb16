"""Which layers run in int8, and which tensors must carry one scale: found on the fx graph of the deploy form.

Only the inputs of convolutions and linear layers are quantized. A tensor is a node of the graph, so all its readers
share its scale. Tensors that hold the same values (views, MaxPool, nearest Upsample, the inputs and the output of
Concat) and the two operands of an Add share one; the result of an Add or of an activation is a new tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from torch import fx, nn

from edgeyolo.quantization.placement.operators import (
    LAYERS,
    Effect,
    Modules,
    effect_of,
    is_channel_pool,
    is_global_pool,
    operator_name,
)
from edgeyolo.spec.errors import UnknownNameError

_CARRIES = (Effect.VIEW, Effect.SELECT, Effect.JOIN)


@dataclass(frozen=True)
class Group:
    """Tensors that carry one scale.

    Attributes:
        tensors: names of the fx nodes that an int8 layer reads, in the order they are computed.
        layers: module paths of those layers.
    """

    tensors: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class LayerPlan:
    """How one convolution or linear layer runs.

    Attributes:
        inputs: names of the fx nodes it reads; more than one if the module is called more than once.
        group: key of `Placement.groups`; "" if float.
        why: the reason, for people.
    """

    precision: Literal["int8", "float"]
    inputs: tuple[str, ...]
    group: str
    why: str


@dataclass(frozen=True)
class Placement:
    """Every quantizer of a model.

    Attributes:
        groups: "g0", "g1" ... in the order they are first read.
        layers: module path -> plan, in the order they are first called.
        unsupported: "node (operator)" of each operator whose effect on a scale is not known; what reads it stays float.
    """

    groups: dict[str, Group]
    layers: dict[str, LayerPlan]
    unsupported: tuple[str, ...] = ()

    def group_of_tensor(self) -> dict[str, str]:
        """fx node name -> key of its group, for every tensor that an int8 layer reads."""
        return {tensor: name for name, group in self.groups.items() for tensor in group.tensors}

    def int8_layers(self) -> list[str]:
        """Module paths of the layers that run in int8."""
        return [path for path, plan in self.layers.items() if plan.precision == "int8"]

    def with_float(self, reasons: Mapping[str, str]) -> Placement:
        """The same placement with some layers kept float; the other groups keep their names.

        Args:
            reasons: module path -> why.

        Raises:
            UnknownNameError: a path that is no layer of the model.
        """
        for path in reasons:
            if path not in self.layers:
                raise UnknownNameError("layer", path, self.layers)
        layers = {
            path: replace(plan, precision="float", group="", why=reasons[path]) if path in reasons else plan
            for path, plan in self.layers.items()
        }
        read = {(plan.group, tensor) for plan in layers.values() for tensor in plan.inputs}
        groups = {
            name: Group(
                tuple(tensor for tensor in group.tensors if (name, tensor) in read),
                tuple(path for path in group.layers if path not in reasons),
            )
            for name, group in self.groups.items()
        }
        return replace(self, layers=layers, groups={name: group for name, group in groups.items() if group.layers})


def find_placement(
    graph_module: fx.GraphModule, float_layers: Sequence[str] = (), *, depthwise: bool = False
) -> Placement:
    """Find the scale groups and the precision of each layer of a deploy form.

    Args:
        float_layers: module paths to keep float; `*` matches any part.
        depthwise: whether convolutions with one filter for each channel may be int8.

    Raises:
        UnknownNameError: a pattern of `float_layers` that matches no layer.
    """
    graph = _Graph(graph_module)
    calls = graph.layer_calls()
    chosen = _match_layers(float_layers, calls)
    reasons = {path: graph.why_float(path, nodes, depthwise=depthwise) for path, nodes in calls.items()}
    sets = graph.scale_sets(calls)

    layers: dict[str, LayerPlan] = {}
    names: dict[fx.Node, str] = {}
    for path, nodes in calls.items():
        inputs = tuple(dict.fromkeys(_inputs(nodes)))
        group = "" if reasons[path] else names.setdefault(sets.root(inputs[0]), f"g{len(names)}")
        layers[path] = LayerPlan(
            "float" if reasons[path] else "int8",
            tuple(node.name for node in inputs),
            group,
            reasons[path] or "hidden layer",
        )
    order = {node.name: position for position, node in enumerate(graph.nodes)}
    groups = {name: _group(name, layers, order) for name in names.values()}
    return Placement(groups, layers, graph.unsupported()).with_float(chosen)


def tensors_by_group(graph_module: fx.GraphModule, placement: Placement) -> dict[str, tuple[str, ...]]:
    """Key of each group -> every fx node whose values its scale holds for, also those that no int8 layer reads itself.

    Args:
        placement: of `graph_module`.
    """
    graph = _Graph(graph_module)
    sets = graph.scale_sets(graph.layer_calls())
    group_of = placement.group_of_tensor()
    names = {sets.root(node): group_of[node.name] for node in graph.nodes if node.name in group_of}
    found: dict[str, list[str]] = {name: [] for name in placement.groups}
    for node in graph.nodes:
        if sets.root(node) in names:
            found[names[sets.root(node)]].append(node.name)
    return {name: tuple(tensors) for name, tensors in found.items()}


def _group(name: str, layers: Mapping[str, LayerPlan], order: Mapping[str, int]) -> Group:
    members = [path for path, plan in layers.items() if plan.group == name]
    tensors = {tensor for path in members for tensor in layers[path].inputs}
    return Group(tuple(sorted(tensors, key=order.__getitem__)), tuple(members))


def _match_layers(patterns: Iterable[str], layers: Iterable[str]) -> dict[str, str]:
    """Module path -> reason, for each layer that a pattern names."""
    paths = list(layers)
    reasons: dict[str, str] = {}
    for pattern in patterns:
        matched = [path for path in paths if fnmatchcase(path, pattern)]
        if not matched:
            raise UnknownNameError("layer", pattern, paths, where="float_layers")
        reasons |= dict.fromkeys(matched, f"kept float by '{pattern}'")
    return reasons


def _inputs(calls: Iterable[fx.Node]) -> Iterator[fx.Node]:
    """The tensor that each call of a layer reads."""
    for call in calls:
        yield call.all_input_nodes[0]


class _DisjointSets:
    """Union-find over the nodes of a graph, with path halving."""

    def __init__(self) -> None:
        self._parent: dict[fx.Node, fx.Node] = {}

    def root(self, node: fx.Node) -> fx.Node:
        parent = self._parent
        while (above := parent.get(node, node)) is not node:
            parent[node] = parent.get(above, above)
            node = parent[node]
        return node

    def join(self, nodes: Sequence[fx.Node]) -> None:
        for node in nodes[1:]:
            self._parent[self.root(node)] = self.root(nodes[0])


class _Graph:
    """Questions about one fx graph."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.nodes = list(graph_module.graph.nodes)
        self.modules: Modules = dict(graph_module.named_modules())
        self.effects = {node: effect_of(node, self.modules) for node in self.nodes}
        self._pooled = self._find_pooled()
        self._raw_maps = self._find_raw_maps()

    def layer_calls(self) -> dict[str, list[fx.Node]]:
        """Module path of each layer -> the nodes that call it."""
        calls: dict[str, list[fx.Node]] = {}
        for node in self.nodes:
            if node.op == "call_module" and isinstance(self.modules[str(node.target)], LAYERS):
                calls.setdefault(str(node.target), []).append(node)
        return calls

    def scale_sets(self, calls: Mapping[str, Sequence[fx.Node]]) -> _DisjointSets:
        """Tensors that must share a scale, transitively."""
        sets = _DisjointSets()
        for node, effect in self.effects.items():
            if effect is Effect.ADD:
                sets.join(node.all_input_nodes)
            elif effect in _CARRIES:
                sets.join([node, *self._carried(node)])
        for nodes in calls.values():
            sets.join(list(_inputs(nodes)))
        return sets

    def unsupported(self) -> tuple[str, ...]:
        """ "node (operator)" of each operator that is not known."""
        return tuple(f"{n.name} ({operator_name(n, self.modules)})" for n in self.nodes if self._is_unknown(n))

    def why_float(self, path: str, calls: Sequence[fx.Node], *, depthwise: bool) -> str:
        """Why a layer cannot run in int8; "" if it can."""
        if any(call in self._raw_maps for call in calls):
            return "head output"
        inputs = list(_inputs(calls))
        if any(node in self._pooled for node in inputs):
            return "attention: reads a pooled tensor"
        unknown = [n for node in inputs for n in self._sources(node) if self._is_unknown(n)]
        if unknown:
            return f"reads the unsupported operator '{operator_name(unknown[0], self.modules)}'"
        return _why_unsupported(self.modules[path], depthwise=depthwise)

    def _is_unknown(self, node: fx.Node) -> bool:
        return self.effects[node] is Effect.UNKNOWN

    def _carried(self, node: fx.Node) -> list[fx.Node]:
        """The inputs whose values a VIEW, SELECT or JOIN hands on (the rest are sizes and indices)."""
        return node.all_input_nodes if self.effects[node] is Effect.JOIN else node.all_input_nodes[:1]

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """The operators that compute the values of a tensor, seen through those that only hand values on."""
        return self._walk_back([node], _CARRIES)

    def _walk_back(self, nodes: Iterable[fx.Node], through: Sequence[Effect]) -> list[fx.Node]:
        found: list[fx.Node] = []
        pending, seen = list(nodes), set()
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            if self.effects[node] in through and node.all_input_nodes:
                pending.extend(self._carried(node))
            else:
                found.append(node)
        return found

    def _find_raw_maps(self) -> set[fx.Node]:
        """Nodes whose values leave the graph as they are."""
        outputs = [node for end in self.nodes if end.op == "output" for node in end.all_input_nodes]
        return set(self._walk_back(outputs, (Effect.VIEW, Effect.JOIN)))

    def _find_pooled(self) -> set[fx.Node]:
        """Nodes with one number per channel or per position: what reduces to them, and what follows from it alone."""
        pooled: set[fx.Node] = set()
        for node in self.nodes:
            carries = self.effects[node] in _CARRIES
            inputs = self._carried(node) if carries else [n for n in node.all_input_nodes if n.op != "get_attr"]
            reduces = is_global_pool(node, self.modules) or is_channel_pool(node, self.modules)
            if reduces or (inputs and all(n in pooled for n in inputs)):
                pooled.add(node)
        return pooled


def _why_unsupported(layer: nn.Module, *, depthwise: bool) -> str:
    if isinstance(layer, nn.Linear):
        return ""
    if not isinstance(layer, nn.Conv2d):
        return f"{type(layer).__name__} is not quantized"
    if layer.groups not in (1, layer.out_channels):
        return f"grouped convolution ({layer.groups} groups) is not quantized"
    if layer.groups != 1 and not depthwise:
        return "depthwise convolution: a processor computes it faster in float (the recipe's `depthwise`)"
    if layer.padding_mode != "zeros":
        return f"padding mode '{layer.padding_mode}' is not quantized"
    return ""
