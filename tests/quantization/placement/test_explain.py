"""The placement in words and as a drawing: complete, in order, escaped, and nothing on top of anything else."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.quantization.calibrate.ranges import trace_deploy_form
from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.placement.explain import explain
from edgeyolo.quantization.placement.graph_svg import draw_graph_svg
from edgeyolo.quantization.placement.groups import Placement, find_placement, tensors_by_group
from edgeyolo.quantization.placement.layered_layout import layered_layout

SVG = "{http://www.w3.org/2000/svg}"


class Net(nn.Module):
    """A residual, a pool, a concat, one layer called twice, an unknown operator, and a head."""

    def __init__(self) -> None:
        super().__init__()
        for name in "abcde":
            setattr(self, name, nn.Conv2d(8, 8, 3, padding=1))
        self.pool, self.twice, self.out = nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.silu(self.a(x))
        y = F.silu(self.c(F.silu(self.b(x)) + x))
        z = F.silu(self.d(self.pool(y)))
        strange = torch.cumsum(z, 3)
        return [self.out(torch.cat([self.twice(y), self.twice(F.silu(z))], 1)), F.relu(self.e(strange))]


@pytest.fixture(scope="module")
def small() -> tuple[fx.GraphModule, Placement]:
    deploy = fx.symbolic_trace(Net().eval())
    return deploy, find_placement(deploy, ("d",))


def test_every_layer_and_group_is_explained(small: tuple[fx.GraphModule, Placement]) -> None:
    deploy, placement = small
    explained = explain(placement, deploy)
    assert [row.path for row in explained.layers] == list(placement.layers)
    whys = {row.path: (row.precision, row.why) for row in explained.layers}
    assert whys["a"][0] == "int8"
    assert whys["d"] == ("float", "kept float by 'd'")
    assert whys["out"] == ("float", "head output")
    assert whys["e"] == ("float", "reads the unsupported operator 'cumsum'")
    assert {row.path: row.kind for row in explained.layers}["a"] == "Conv2d 3x3/1, 8 -> 8"
    assert explained.unsupported == ("cumsum (cumsum)",)
    by_name = {row.name: row for row in explained.groups}
    assert set(by_name) == set(placement.groups)
    causes = {path: by_name[placement.layers[path].group].joined_by for path in ("a", "b", "twice")}
    assert causes["a"] == ()
    assert causes["b"] == ("add (add): adds operands of one scale",)
    assert "twice: one layer, called 2 times" in causes["twice"]


def test_the_text_names_everything(small: tuple[fx.GraphModule, Placement]) -> None:
    deploy, placement = small
    groups = dict.fromkeys(placement.groups, 0.5)
    text = str(explain(placement, deploy, Scales(groups, {}, "max", "max", {})))
    assert "8 layers" not in text and "7 layers: 4 int8, 3 float" in text
    assert text.count("scale 0.5\n") == len(groups)
    for name in (*placement.layers, *placement.groups, "cumsum (cumsum)", "head output"):
        assert name in text


def test_a_group_covers_tensors_that_nobody_reads_in_int8(small: tuple[fx.GraphModule, Placement]) -> None:
    """`pool` shares the scale of `y`, which the convolution `twice` reads, though only a float layer reads it."""
    deploy, placement = small
    covered = tensors_by_group(deploy, placement)
    assert set(covered) == set(placement.groups)
    group = placement.layers["twice"].group
    assert "pool" in covered[group] and "pool" not in placement.groups[group].tensors
    for name, tensors in covered.items():
        assert set(placement.groups[name].tensors) <= set(tensors)
    assert len([t for tensors in covered.values() for t in tensors]) == len({t for ts in covered.values() for t in ts})


@dataclass(frozen=True)
class Rect:
    left: float
    top: float
    right: float
    bottom: float

    def touches(self, other: Rect) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def boxes_of(svg: str) -> list[tuple[Rect, ElementTree.Element]]:
    """Each box with the group it stands in."""
    found = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if group.find(f"{SVG}title") is not None:
            rect = group.find(f"{SVG}rect")
            assert rect is not None
            x, y, w, h = (float(rect.get(key, "nan")) for key in ("x", "y", "width", "height"))
            found.append((Rect(x, y, x + w, y + h), group))
    return found


@pytest.mark.parametrize("name", ["yolov7-tiny", "ppyoloe-s", "yolov7-w6"])
def test_the_drawing_of_a_model_is_whole_and_nothing_overlaps(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name, 3)
    deploy = trace_deploy_form(model)
    placement = find_placement(deploy)
    svg = draw_graph_svg(deploy, placement, name)
    boxes = boxes_of(svg)
    for (a, _), (b, _) in itertools.combinations(boxes, 2):
        assert not a.touches(b)
    for rect, group in boxes:
        for text in group.findall(f"{SVG}text"):
            if text.get("class") != "chip":
                end = float(text.get("x", "nan")) + 6.3 * len(text.text or "")
                assert rect.left < float(text.get("x", "nan")) and end < rect.right
    tooltips = [group.findtext(f"{SVG}title", "") for _, group in boxes]
    for path, plan in placement.layers.items():
        mine = [t for t in tooltips if t.splitlines()[0] == path]
        assert len(mine) == 1, path
        assert f"{plan.precision}: {plan.why}" in mine[0]
        assert not plan.group or f"scale of {plan.group}\n" in mine[0]
    chips = [t.text for _, group in boxes for t in group.findall(f"{SVG}text") if t.get("class") == "chip"]
    assert len(chips) == len(placement.int8_layers())
    assert set(chips) == set(placement.groups)


def test_names_and_titles_are_escaped(small: tuple[fx.GraphModule, Placement]) -> None:
    svg = draw_graph_svg(*small, "<script>alert('a & b')</script>")
    assert "<script" not in svg
    root = ElementTree.fromstring(svg)
    titles = [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "title"]
    assert titles == ["<script>alert('a & b')</script>"]
    assert "href" not in svg and "url(" not in svg


def test_float_and_int8_layers_have_their_own_colours(small: tuple[fx.GraphModule, Placement]) -> None:
    deploy, placement = small
    fills: dict[str, set[str]] = {"int8": set(), "float": set()}
    for _, group in boxes_of(draw_graph_svg(deploy, placement)):
        path = group.findtext(f"{SVG}title", "").splitlines()[0]
        rect = group.find(f"{SVG}rect")
        if path in placement.layers and rect is not None:
            fills[placement.layers[path].precision].add(rect.get("fill", ""))
    assert len(fills["int8"]) == len(fills["float"]) == 1 and fills["int8"] != fills["float"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_layouts_of_random_graphs_keep_their_distance(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 25))
    widths = {f"n{i}": float(data.draw(st.integers(20, 300))) for i in range(count)}
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    edges = sorted({(f"n{a}", f"n{b}") for a, b in data.draw(st.lists(pairs, max_size=40)) if a < b})
    layout = layered_layout(widths, edges, row_height=50.0)
    rects = {
        name: Rect(x - widths[name] / 2, y - 20, x + widths[name] / 2, y + 20)
        for name, (x, y) in layout.centres_xy.items()
    }
    assert set(rects) == set(widths)
    for a, b in itertools.combinations(rects.values(), 2):
        assert not a.touches(b)
    width, height = layout.size_wh
    assert all(r.left >= 0 and r.top >= 0 and r.right <= width and r.bottom <= height for r in rects.values())
    for start, end in edges:
        assert layout.centres_xy[start][1] < layout.centres_xy[end][1]
        lanes = layout.routes[start, end]
        ys = [layout.centres_xy[start][1], *(y for _, y in lanes), layout.centres_xy[end][1]]
        assert all(b - a == pytest.approx(50.0) for a, b in itertools.pairwise(ys))
        for x, y in lanes:
            assert not any(rect.left < x < rect.right and rect.top < y < rect.bottom for rect in rects.values())
