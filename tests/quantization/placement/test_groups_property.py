"""Scale groups on random graphs that really run, against a closure by sets and on the quantized graph itself.

The graphs are built here together with what each operator means for scales, so nothing of the room under test takes
part in what is expected of it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.placement.explain import explain
from edgeyolo.quantization.placement.groups import find_placement, tensors_by_group
from edgeyolo.quantization.quantizers import insert_quantizers
from edgeyolo.report.graph import graph_dot

KINDS = (
    *("conv", "conv", "conv", "relu", "silu", "concat", "add", "pool_same", "pool_half", "upsample", "interpolate"),
    *("chunk", "split", "view", "attention", "gate", "repeat"),
)
SMALLEST, LARGEST = 2, 16


@dataclass
class Grown:
    """A random graph and what is known about it.

    Attributes:
        tensors: node -> channels and side of its value.
        together: sets of tensors that must carry one scale, as each operator demands it.
        reads: layer -> tensors that it reads.
    """

    graph: fx.Graph = field(default_factory=fx.Graph)
    root: nn.Module = field(default_factory=nn.Module)
    tensors: dict[fx.Node, tuple[int, int]] = field(default_factory=dict)
    together: list[set[fx.Node]] = field(default_factory=list)
    reads: dict[str, list[fx.Node]] = field(default_factory=dict)

    def add(self, node: fx.Node, chs: int, side: int, *same: Iterable[fx.Node]) -> fx.Node:
        self.tensors[node] = (chs, side)
        self.together += [{node, *nodes} for nodes in same]
        return node

    def conv(self, source: fx.Node, out_chs: int, size: int = 1) -> fx.Node:
        name = f"c{len(self.reads)}"
        chs, side = self.tensors[source]
        self.root.add_module(name, nn.Conv2d(chs, out_chs, size, padding=size // 2))
        self.reads[name] = [source]
        return self.add(self.graph.call_module(name, (source,)), out_chs, side)


def grow(data: st.DataObject) -> Grown:
    """A chain of operators, each on tensors chosen anywhere above it, so that many have several consumers."""
    grown = Grown()
    grown.conv(grown.add(grown.graph.placeholder("images"), 4, 8), 4)
    for _ in range(data.draw(st.integers(4, 24), label="operators")):
        extend(grown, data.draw(st.sampled_from(KINDS)), data)
    loose = [node for node in grown.tensors if not node.users]
    # Behind an operator that makes new values no convolution is a raw map, which would stay float.
    grown.graph.output([grown.graph.call_function(torch.exp, (node,)) for node in loose])
    return grown


def extend(grown: Grown, kind: str, data: st.DataObject) -> None:
    """Add one operator, if there is a tensor it can take."""
    graph = grown.graph

    def pick(like: tuple[int, int] | None = None, *, side: int | None = None) -> fx.Node:
        fitting = [n for n, s in grown.tensors.items() if like in (None, s) and side in (None, s[1])]
        return data.draw(st.sampled_from(fitting))

    source = pick()
    chs, side = grown.tensors[source]
    if kind == "conv":
        grown.conv(source, data.draw(st.sampled_from([2, 4])), data.draw(st.sampled_from([1, 3])))
    elif kind == "relu":
        grown.add(graph.call_function(F.relu, (source,)), chs, side)
    elif kind == "silu":
        name = f"act{len(grown.tensors)}"
        grown.root.add_module(name, nn.SiLU())
        grown.add(graph.call_module(name, (source,)), chs, side)
    elif kind == "concat":
        parts = [source, *(pick(side=side) for _ in range(data.draw(st.integers(1, 3))))]
        if sum(grown.tensors[part][0] for part in parts) <= 16:
            joined = graph.call_function(torch.cat, (parts,), {"dim": 1})
            grown.add(joined, sum(grown.tensors[part][0] for part in parts), side, parts)
    elif kind == "add":
        other = pick((chs, side))
        grown.together.append({source, other})
        grown.add(graph.call_function(operator.add, (source, other)), chs, side)
    elif kind == "pool_same":
        name = f"pool{len(grown.tensors)}"
        grown.root.add_module(name, nn.MaxPool2d(3, 1, 1))
        grown.add(graph.call_module(name, (source,)), chs, side, [source])
    elif kind == "pool_half" and side > SMALLEST:
        grown.add(graph.call_function(F.max_pool2d, (source, 2)), chs, side // 2, [source])
    elif kind == "upsample" and side < LARGEST:
        name = f"up{len(grown.tensors)}"
        grown.root.add_module(name, nn.Upsample(scale_factor=2, mode="nearest"))
        grown.add(graph.call_module(name, (source,)), chs, 2 * side, [source])
    elif kind == "interpolate" and side < LARGEST:
        mode = data.draw(st.sampled_from(["nearest", "bilinear"]))
        resized = graph.call_function(F.interpolate, (source, None, 2, mode))
        grown.add(resized, chs, 2 * side, *([[source]] if mode == "nearest" else []))
    elif kind in ("chunk", "split") and chs % 2 == 0:
        halves = (
            graph.call_method("chunk", (source, 2, 1))
            if kind == "chunk"
            else graph.call_function(torch.split, (source, chs // 2, 1))
        )
        for i in range(2):
            grown.add(graph.call_function(operator.getitem, (halves, i)), chs // 2, side, [source])
    elif kind == "view":
        flat = graph.call_method("flatten", (source, 2))
        grown.add(graph.call_method("view", (flat, -1, chs, side, side)), chs, side, [source])
    elif kind == "attention":  # squeeze and excitation: the layers behind the pooled tensor stay float
        pooled = graph.call_method("mean", (source, (2, 3)), {"keepdim": True})
        name = f"float{len(grown.tensors)}"
        grown.root.add_module(name, nn.Conv2d(chs, chs, 1))
        weight = graph.call_function(torch.sigmoid, (graph.call_module(name, (pooled,)),))
        grown.add(graph.call_function(operator.mul, (source, weight)), chs, side)
    elif kind == "gate":
        grown.add(graph.call_function(operator.mul, (source, pick((chs, side)))), chs, side)
    elif kind == "repeat" and grown.reads:  # one layer, called on a second tensor
        name = data.draw(st.sampled_from(sorted(grown.reads)))
        layer = grown.root.get_submodule(name)
        fitting = [n for n, s in grown.tensors.items() if s[0] == layer.in_channels]
        again = data.draw(st.sampled_from(fitting))
        grown.reads[name].append(again)
        grown.together.append(set(grown.reads[name]))
        grown.add(graph.call_module(name, (again,)), layer.out_channels, grown.tensors[again][1])


def closure(demands: Iterable[set[fx.Node]]) -> list[set[fx.Node]]:
    """Merge sets that share an element, over and over, until none do."""
    sets = [set(demand) for demand in demands]
    while True:
        for i, one in enumerate(sets):
            partner = next((j for j in range(i + 1, len(sets)) if sets[j] & one), None)
            if partner is not None:
                one |= sets.pop(partner)
                break
        else:
            return sets


UNHURRIED = [HealthCheck.too_slow]


@settings(max_examples=120, deadline=None, suppress_health_check=UNHURRIED)
@given(st.data())
def test_the_groups_are_the_closure_of_what_each_operator_demands(data: st.DataObject) -> None:
    grown = grow(data)
    module = fx.GraphModule(grown.root, grown.graph).eval()
    placement = find_placement(module)
    expected = closure([*grown.together, *({node} for node in grown.tensors)])
    assert set(placement.int8_layers()) == set(grown.reads)
    of_tensor = {node.name: i for i, some in enumerate(expected) for node in some}
    found: dict[str, set[int]] = {}
    for name, sources in grown.reads.items():
        plan = placement.layers[name]
        assert set(plan.inputs) == {source.name for source in sources}
        found.setdefault(plan.group, set()).update(of_tensor[source.name] for source in sources)
    assert all(len(ids) == 1 for ids in found.values()), "a group holds tensors that nothing binds together"
    assert len(set().union(*found.values())) == len(found), "one scale set is split over two groups"
    covered = tensors_by_group(module, placement)
    for group, ids in found.items():
        tensors = {node.name for node in expected[next(iter(ids))]}
        assert tensors <= set(covered[group])
        assert not (set(covered[group]) - tensors) & set(of_tensor)


@settings(max_examples=40, deadline=None, suppress_health_check=UNHURRIED)
@given(st.data())
def test_no_tensor_is_read_with_two_scales_in_the_quantized_graph(data: st.DataObject) -> None:
    """Each group gets a scale of its own; the quantized graph runs, and is read back from its quantizer modules."""
    grown = grow(data)
    module = fx.GraphModule(grown.root, grown.graph).eval()
    placement = find_placement(module)
    steps = {name: 2.0 ** -(4 + i % 3) * (1 + i / 64) for i, name in enumerate(placement.groups)}
    assert len(set(steps.values())) == len(steps)
    weights = {path: (0.01,) * module.get_submodule(path).out_channels for path in placement.int8_layers()}
    quantized = insert_quantizers(module, placement, make_scales(steps, weights))

    read: dict[str, set[float]] = {node.name: set() for node in grown.tensors}
    for node in quantized.graph.nodes:
        if node.op == "call_module" and str(node.target).startswith("quantizers."):
            quantizer = quantized.get_submodule(str(node.target))
            read[node.args[0].name].add(float(quantizer.scale))
    for some in closure([*grown.together, *({node} for node in grown.tensors)]):
        assert len(set().union(*(read[node.name] for node in some))) <= 1
    layers = {str(n.target): n for n in quantized.graph.nodes if n.op == "call_module" and n.target in grown.reads}
    assert all(str(layer.args[0].target).startswith("quantizers.") for layer in layers.values())

    class Check(fx.Interpreter):
        """What leaves a quantizer is whole steps of its group, whoever reads it."""

        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if n.op == "call_module" and str(n.target).startswith("quantizers."):
                integers = value / steps[str(n.target).removeprefix("quantizers.")]
                torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-3)
                assert integers.abs().max() <= 127.001
            return value

    with torch.no_grad():
        outputs = Check(quantized).run(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert all(isinstance(output, Tensor) for output in outputs)


@settings(max_examples=15, deadline=None, suppress_health_check=UNHURRIED)
@given(st.data())
def test_any_placement_can_be_explained_and_drawn(data: st.DataObject) -> None:
    grown = grow(data)
    module = fx.GraphModule(grown.root, grown.graph).eval()
    placement = find_placement(module)
    text, dot = str(explain(placement, module)), graph_dot(module, placement)
    for path in placement.layers:
        assert path in text and f'[label="{path}' in dot


def make_scales(groups: dict[str, float], weights: dict[str, tuple[float, ...]]) -> Scales:
    return Scales(groups, weights, how="max", weight_how="max", weight_bits=dict.fromkeys(weights, 8))
