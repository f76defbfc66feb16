"""Scale groups against a brute-force closure, rules one by one, and every edge of real models."""

from __future__ import annotations

import operator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.nn.cbam import CbamC3
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization.calibrate.ranges import trace_deploy_form
from edgeyolo.quantization.placement.groups import Placement, find_placement
from edgeyolo.spec.errors import UnknownNameError


def place(module: nn.Module, float_layers: tuple[str, ...] = ()) -> Placement:
    return find_placement(fx.symbolic_trace(module.eval()), float_layers)


class Blocks(nn.Module):
    """Six named convolutions, of which `out` is the head."""

    def __init__(self) -> None:
        super().__init__()
        for name in "abcde":
            setattr(self, name, nn.Conv2d(8, 8, 3, padding=1))
        self.out = nn.Conv2d(8, 5, 1)
        self.wide = nn.Conv2d(16, 8, 1)


# ---- random graphs against a closure computed another way ----


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_groups_are_the_transitive_closure(data: st.DataObject) -> None:
    graph, root = fx.Graph(), nn.Module()
    nodes, links, reads = [graph.placeholder("x")], [], []

    def pick() -> fx.Node:
        return data.draw(st.sampled_from(nodes))

    for i in range(data.draw(st.integers(3, 25))):
        kind = data.draw(st.sampled_from(["conv", "conv", "act", "pool", "up", "cat", "add", "chunk", "view", "avg"]))
        if kind == "conv":
            source = pick()
            root.add_module(f"c{i}", nn.Conv2d(4, 4, 1))
            made = graph.call_module(f"c{i}", (source,))
            reads.append((f"c{i}", source))
        elif kind == "act":
            made = graph.call_function(F.silu, (pick(),))
        elif kind == "avg":
            made = graph.call_function(F.avg_pool2d, (pick(), 2))
        elif kind == "pool":
            source = pick()
            made = graph.call_function(F.max_pool2d, (source, 2))
            links.append((source, made))
        elif kind == "up":
            source = pick()
            made = graph.call_function(F.interpolate, (source,), {"scale_factor": 2, "mode": "nearest"})
            links.append((source, made))
        elif kind == "cat":
            parts = [pick() for _ in range(data.draw(st.integers(2, 4)))]
            made = graph.call_function(torch.cat, (parts, 1))
            links += [(part, made) for part in parts]
        elif kind == "add":
            left, right = pick(), pick()
            made = graph.call_function(operator.add, (left, right))
            links.append((left, right))
        elif kind == "chunk":
            source = pick()
            halves = graph.call_method("chunk", (source, 2, 1))
            made = graph.call_function(operator.getitem, (halves, 0))
            links.append((source, made))
        else:
            source = pick()
            made = graph.call_method("reshape", (source, -1))
            links.append((source, made))
        nodes.append(made)
    graph.output(graph.call_function(F.relu, (nodes[-1],)))

    index = {node: i for i, node in enumerate(nodes)}
    reach = np.eye(len(nodes), dtype=bool)
    for left, right in links:
        reach[index[left], index[right]] = reach[index[right], index[left]] = True
    for _ in range(len(nodes)):
        reach = (reach.astype(int) @ reach.astype(int)) > 0

    placement = find_placement(fx.GraphModule(root, graph))
    assert set(placement.layers) == {name for name, _ in reads}
    for name, source in reads:
        assert placement.layers[name].precision == "int8"
        assert source.name in placement.groups[placement.layers[name].group].tensors
        for other, other_source in reads:
            same = placement.layers[name].group == placement.layers[other].group
            assert same == bool(reach[index[source], index[other_source]]), (name, other)


# ---- real models ----


@pytest.mark.parametrize(
    ("name", "outputs", "attention"), [("yolov7-tiny", 3, 0), ("yolov7", 3, 0), ("ppyoloe-s", 6, 10)]
)
def test_no_join_of_a_model_mixes_scales(name: str, outputs: int, attention: int) -> None:
    deploy = trace_deploy_form(models.create(name, 3))
    placement = find_placement(deploy)
    group_of, modules = placement.group_of_tensor(), dict(deploy.named_modules())

    def reachable_groups(node: fx.Node, *, down: bool) -> set[str]:
        """Scales met by walking from a tensor through joins only."""
        found, pending, seen = set(), [node], set()
        while pending:
            at = pending.pop()
            if at in seen:
                continue
            seen.add(at)
            found |= {group_of[at.name]} if at.name in group_of else set()
            pending += [user for user in at.users if is_join(user)] if down else []
            pending += at.all_input_nodes if is_join(at) else []
        return found

    def is_join(node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(modules[node.target], nn.MaxPool2d | nn.Upsample)
        return node.op == "call_function" and node.target in (torch.cat, F.max_pool2d, F.interpolate)

    joins = [node for node in deploy.graph.nodes if is_join(node)]
    assert len(joins) > 5
    for node in joins:
        assert len(reachable_groups(node, down=True)) <= 1, node
    adds = [n for n in deploy.graph.nodes if n.op == "call_function" and n.target is operator.add]
    for node in adds:
        assert len({group_of[n.name] for n in node.all_input_nodes if n.name in group_of}) <= 1, node

    whys = [plan.why for plan in placement.layers.values() if plan.precision == "float"]
    assert whys.count("head output") == outputs
    assert sum(why.startswith("attention") for why in whys) == attention
    assert len(whys) == outputs + attention
    assert placement.unsupported == ()


def test_every_layer_of_a_model_is_planned_and_reads_its_own_group() -> None:
    deploy = trace_deploy_form(models.create("yolov7-tiny", 3))
    placement = find_placement(deploy)
    convolutions = {name for name, module in deploy.named_modules() if isinstance(module, nn.Conv2d)}
    assert set(placement.layers) == convolutions
    assert len(placement.int8_layers()) == 55
    calls = {node.target: node for node in deploy.graph.nodes if node.op == "call_module"}
    for path in placement.int8_layers():
        plan = placement.layers[path]
        assert plan.inputs == (calls[path].args[0].name,)
        assert path in placement.groups[plan.group].layers


# ---- rules, one by one ----


def test_readers_of_one_tensor_share_a_scale_and_activations_do_not_pass_it_on() -> None:
    class Net(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.c(F.relu(self.a(x)) * 1.0)) + self.b(x) * 2.0)

    placement = place(Net())
    group = {path: plan.group for path, plan in placement.layers.items()}
    assert group["a"] == group["b"] != group["c"]
    assert placement.layers["out"].precision == "float"


def test_operands_of_an_add_share_a_scale_and_its_result_has_its_own() -> None:
    class Net(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            left = F.silu(self.a(x))
            right = F.silu(self.b(left))
            total = left + right
            return self.out(F.silu(self.c(total)) + F.silu(self.d(right)))

    group = {path: plan.group for path, plan in place(Net()).layers.items()}
    assert group["b"] == group["d"] != group["c"]
    assert group["a"] not in (group["b"], group["c"])


def test_a_chain_of_pools_concats_and_upsampling_is_one_group() -> None:
    class Net(Blocks):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.up = nn.MaxPool2d(5, 1, 2), nn.Upsample(scale_factor=2)

        def forward(self, x: Tensor) -> Tensor:
            first = F.silu(self.a(x))
            second = self.pool(first)
            joined = torch.cat([first, second], 1)
            resized = F.max_pool2d(self.up(joined), 2)
            half = torch.split(resized, [8, 8], 1)[1]
            return self.out(F.silu(self.b(first)) * F.silu(self.wide(resized)) * F.silu(self.c(half)))

    placement = place(Net())
    group = {path: plan.group for path, plan in placement.layers.items()}
    assert group["b"] == group["wide"] == group["c"] != group["a"]
    assert len(placement.groups) == 2


def test_bilinear_upsampling_and_average_pooling_make_new_tensors() -> None:
    class Net(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            smooth = F.interpolate(x, scale_factor=2, mode="bilinear")
            return self.out(F.relu(self.a(x)) * F.relu(self.b(F.avg_pool2d(smooth, 2))))

    group = {path: plan.group for path, plan in place(Net()).layers.items()}
    assert group["a"] != group["b"]


def test_head_outputs_are_found_through_views_only() -> None:
    class Net(Blocks):
        def forward(self, x: Tensor) -> list[Tensor]:
            hidden = F.silu(self.a(x))
            boxes = self.b(hidden).permute(0, 2, 3, 1).reshape(1, -1, 8)
            both = torch.cat([self.c(hidden), self.d(hidden)], 1)
            return [boxes, both, torch.sigmoid(self.e(hidden))]

    layers = place(Net()).layers
    assert [layers[name].precision for name in "abcde"] == ["int8", "float", "float", "float", "int8"]
    assert {layers[name].why for name in "bcd"} == {"head output"}


def test_attention_stays_float_down_to_where_it_meets_the_picture() -> None:
    class Net(Blocks):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.silu(self.a(x))
            x = x * torch.sigmoid(self.c(F.relu(self.b(x.mean((2, 3), keepdim=True)))))
            x = x * torch.sigmoid(self.d(self.pool(x)))
            return self.out(F.silu(self.e(x)))

    layers = place(Net()).layers
    assert [layers[name].precision for name in "abcde"] == ["int8", "float", "float", "float", "int8"]
    assert all(layers[name].why.startswith("attention") for name in "bcd")


def test_a_layer_called_twice_reads_one_scale() -> None:
    class Net(Blocks):
        def forward(self, x: Tensor) -> list[Tensor]:
            fine, coarse = F.silu(self.a(x)), F.silu(self.b(x))
            return [self.out(F.silu(self.c(fine))), self.out(F.silu(self.c(coarse)))]

    placement = place(Net())
    plan = placement.layers["c"]
    assert len(plan.inputs) == 2
    assert set(placement.groups[plan.group].tensors) == set(plan.inputs)


def test_what_cannot_be_quantized_stays_float_with_a_reason() -> None:
    class Net(Blocks):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(8, 8, 3, groups=2)
            self.b = nn.ConvTranspose2d(8, 8, 2)
            self.c = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")

        def forward(self, x: Tensor) -> Tensor:
            x = F.silu(self.c(F.silu(self.b(F.silu(self.a(x))))))
            summed = torch.cumsum(x, 3)
            return self.out(F.silu(self.wide(torch.cat([x, summed], 1))) * F.silu(self.e(x)))

    placement = place(Net())
    assert "2 groups" in placement.layers["a"].why
    assert "ConvTranspose2d" in placement.layers["b"].why
    assert "reflect" in placement.layers["c"].why
    assert placement.unsupported == ("cumsum (cumsum)",)
    assert placement.layers["wide"].precision == "float"
    assert "'cumsum'" in placement.layers["wide"].why
    assert placement.layers["e"].precision == "int8"


def test_depthwise_layers_are_int8_where_they_are_asked_for() -> None:
    class Net(Blocks):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(8, 8, 3, groups=8)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.silu(self.b(F.silu(self.a(x)))))

    traced = fx.symbolic_trace(Net().eval())
    by_default, asked = find_placement(traced), find_placement(traced, depthwise=True)
    assert by_default.layers["a"].precision == "float" and "depthwise" in by_default.layers["a"].why
    assert asked.layers["a"].precision == by_default.layers["b"].precision == "int8"


def test_patterns_keep_layers_float_and_must_match() -> None:
    class Net(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.silu(self.b(F.silu(self.a(x)))))

    placement = place(Net(), ("[b]",))
    assert placement.layers["b"].precision == "float"
    assert "[b]" in placement.layers["b"].why
    assert [group.layers for group in placement.groups.values()] == [("a",)]
    with pytest.raises(UnknownNameError, match=r"unknown layer 'head\.\*'"):
        place(Net(), ("a", "head.*"))
    with pytest.raises(UnknownNameError):
        placement.with_float({"nowhere": "because"})


def test_restoring_one_layer_leaves_the_other_groups_as_they_were() -> None:
    class Net(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            first = F.silu(self.a(x))
            return self.out(F.silu(self.b(first)) * F.silu(self.wide(torch.cat([first, first], 1))))

    before = place(Net())
    after = before.with_float({"wide": "sensitive"})
    shared = before.layers["b"].group
    assert before.groups[shared].tensors == ("silu", "cat")
    assert after.groups[shared].tensors == ("silu",)
    assert after.groups[shared].layers == ("b",)
    assert after.groups[before.layers["a"].group] == before.groups[before.layers["a"].group]


def test_gates_of_channels_and_positions_stay_float() -> None:
    placement = place(nn.Sequential(fold_model(CbamC3(32, 32, 1, shortcut=True)), nn.Conv2d(32, 5, 1)))
    gates = {path: plan.why for path, plan in placement.layers.items() if plan.precision == "float"}
    assert gates.pop("1") == "head output"
    assert gates == dict.fromkeys(
        ("0.channels.squeeze", "0.channels.excite", "0.positions.conv"), "attention: reads a pooled tensor"
    )
