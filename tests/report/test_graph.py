"""The placement as Graphviz text: every layer once with its reason, every edge of the graph, names escaped."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.quantization.calibrate.ranges import trace_deploy_form
from edgeyolo.quantization.placement.groups import find_placement, tensors_by_group
from edgeyolo.report.graph import graph_dot

STRING = r'"((?:[^"\\]|\\.)*)"'
NODE = re.compile(rf'  {STRING} \[label={STRING}, fillcolor="(#\w{{6}})", color="#\w{{6}}"\];')
EDGE = re.compile(rf'  {STRING} -> {STRING}(?: \[color="(#\w{{6}})", penwidth=2, tooltip={STRING}\])?;')


class Net(nn.Module):
    """Two convolutions with activations, added, then one that stays float."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = (nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.a(x)) + F.silu(self.b(x)))


def parse(dot: str) -> tuple[dict[str, tuple[list[str], str]], list[tuple[str, ...]]]:
    """Boxes as name -> (lines, fill), and edges as (start, end, colour, group); every line is one of them or style."""
    lines = dot.splitlines()
    assert lines[0] == "digraph {" and lines[-1] == "}"
    nodes, edges = {}, []
    for line in lines[5:-1]:
        if match := NODE.fullmatch(line):
            nodes[match[1]] = ([part.replace(r"\"", '"') for part in match[2].split(r"\n")], match[3])
        else:
            found = EDGE.fullmatch(line)
            assert found, line
            edges.append(tuple(part or "" for part in found.groups()))
    return nodes, edges


@pytest.mark.parametrize("name", ["yolov7-tiny", "ppyoloe-s"])
def test_a_model_is_drawn_whole(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name, 3)
    deploy = trace_deploy_form(model)
    placement = find_placement(deploy)
    nodes, edges = parse(graph_dot(deploy, placement, name))
    by_path = {lines[0]: (lines, fill) for lines, fill in nodes.values()}
    fills: dict[str, set[str]] = {"int8": set(), "float": set()}
    for path, plan in placement.layers.items():
        lines, fill = by_path[path]
        assert lines[-1] == f"{plan.precision}: {plan.why}" + (f", scale of {plan.group}" if plan.group else "")
        fills[plan.precision].add(fill)
    assert len(fills["int8"]) == len(fills["float"]) == 1 and fills["int8"] != fills["float"]
    assert {end for edge in edges for end in edge[:2]} == set(nodes)
    assert {group for _, _, _, group in edges if group} == set(placement.groups)
    colours = {group: colour for _, _, colour, group in edges if group}
    assert len(set(colours.values())) == len(placement.groups)


def test_edges_are_those_of_the_graph_with_activations_inside_their_layer() -> None:
    deploy = fx.symbolic_trace(Net().eval())
    placement = find_placement(deploy)
    _, edges = parse(graph_dot(deploy, placement))
    group_of = {tensor: name for name, some in tensors_by_group(deploy, placement).items() for tensor in some}
    group_in, group_sum = group_of.get("x", ""), group_of.get("add", "")
    assert {(start, end, group) for start, end, _, group in edges} == {
        ("x", "a", group_in),
        ("x", "b", group_in),
        ("a", "add", group_of.get("silu", "")),
        ("b", "add", group_of.get("silu_1", "")),
        ("add", "out", group_sum),
        ("out", "output", ""),
    }


def test_a_title_cannot_end_its_string() -> None:
    deploy = fx.symbolic_trace(Net().eval())
    dot = graph_dot(deploy, find_placement(deploy), 'a "b" \\ c\nd')
    assert r'label="a \"b\" \\ c d\n3 layers' in dot
