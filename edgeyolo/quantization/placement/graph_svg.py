"""A drawing of the deploy form: which layers are int8, which tensors carry one scale, and why. Open it in a browser."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape

from torch import fx, nn

from edgeyolo.quantization.placement.explain import layer_kind
from edgeyolo.quantization.placement.groups import Placement, tensors_by_group
from edgeyolo.quantization.placement.layered_layout import Layout, layered_layout
from edgeyolo.quantization.placement.operators import LAYERS, Effect, effect_of, operator_name

_ROW_HEIGHT, _BOX_HEIGHT = 74.0, 40.0
_LETTER = 6.3  # width of one letter of the font, at most
_HEADER = 84.0
_GOLDEN = 0.618033988749895
_GREY = "#9aa3ad"
_FILLS = {"int8": "#d5ecd8", "float": "#fde0c5", "": "#f1f3f5"}
_LINES = {"int8": "#2f7d3b", "float": "#c0651b", "": _GREY}
_LEGEND = (
    ("int8", "int8 layer"),
    ("float", "layer kept float"),
    ("", "other operator, float"),
)
_STYLE = (
    "text{font:10.5px 'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#1d2329}"
    ".kind{fill:#57606a}.chip{font-size:9.5px;fill:#fff;font-weight:bold}"
    ".title{font-size:15px;font-weight:bold}path{fill:none}"
)


@dataclass(frozen=True)
class _Box:
    """One node of the drawing: an operator, together with the activation right after it.

    Attributes:
        output: the fx node whose value leaves the box.
        precision: "int8" or "float" for a layer, "" for another operator.
        reads, gives: keys of the groups that its input and its output carry, "" for none.
    """

    output: str
    lines: tuple[str, str]
    precision: str
    reads: str
    gives: str
    tooltip: str

    @property
    def width(self) -> float:
        return max(90.0, max(map(len, self.lines)) * _LETTER + 24.0)


def draw_graph_svg(deploy: fx.GraphModule, placement: Placement, title: str = "") -> str:
    """An SVG of the graph, top to bottom, coloured by precision (boxes) and scale group (lines).

    Each box has a tooltip with the reason for its precision and its groups. A layer and the activation after it are one
    box. Text is escaped, and nothing is loaded from elsewhere.

    Args:
        placement: of `deploy`.
    """
    modules = dict(deploy.named_modules())
    merged = _merge_activations(deploy, modules)
    group_of = {tensor: name for name, some in tensors_by_group(deploy, placement).items() for tensor in some}
    boxes = {n.name: _box(n, merged, placement, group_of, modules) for n in deploy.graph.nodes if n not in merged}
    owner = {node.name: merged.get(node, node).name for node in deploy.graph.nodes}
    edges = list(
        dict.fromkeys(
            (owner[source.name], owner[node.name])
            for node in deploy.graph.nodes
            for source in node.all_input_nodes
            if owner[source.name] != owner[node.name]
        )
    )
    layout = layered_layout({name: box.width for name, box in boxes.items()}, edges, row_height=_ROW_HEIGHT)
    colours = _group_colours(placement)
    body = [
        *(_edge(edge, boxes, layout, colours) for edge in edges),
        *(part for name, box in boxes.items() for part in _draw_box(box, layout.centres_xy[name], colours)),
    ]
    return "\n".join((*_head(title, placement, layout), *body, "</g>", "</svg>", ""))


def _merge_activations(deploy: fx.GraphModule, modules: Mapping[str, nn.Module]) -> dict[fx.Node, fx.Node]:
    """Activation -> the layer it is drawn with: the one it reads, if nothing else reads that."""
    merged: dict[fx.Node, fx.Node] = {}
    for node in deploy.graph.nodes:
        inputs = node.all_input_nodes
        if len(inputs) != 1 or len(inputs[0].users) != 1 or not _is_layer(inputs[0], modules):
            continue
        if node.op != "output" and not _is_layer(node, modules) and effect_of(node, dict(modules)) is Effect.NEW:
            merged[node] = inputs[0]
    return merged


def _is_layer(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], LAYERS)


def _box(
    node: fx.Node,
    merged: Mapping[fx.Node, fx.Node],
    placement: Placement,
    group_of: Mapping[str, str],
    modules: dict[str, nn.Module],
) -> _Box:
    activation = next((after for after, layer in merged.items() if layer is node), None)
    last = activation or node
    name = str(node.target) if node.op == "call_module" else node.name
    kind = layer_kind(modules[name]) if node.op == "call_module" else operator_name(node, modules)
    if activation is not None:
        kind += f" + {operator_name(activation, modules)}"
    plan = placement.layers.get(name) if node.op == "call_module" else None
    reads = plan.group if plan else ""
    gives = group_of.get(last.name, "")
    facts = [name, kind]
    if plan:
        facts.append(f"{plan.precision}: {plan.why}")
        facts.append(f"reads {', '.join(plan.inputs)}" + (f" with the scale of {reads}" if reads else ""))
    facts.append(f"its output carries the scale of {gives}" if gives else "its output carries no scale")
    lines = (name, "" if name.startswith(kind) else kind)
    return _Box(last.name, lines, plan.precision if plan else "", reads, gives, "\n".join(facts))


def _group_colours(placement: Placement) -> dict[str, str]:
    """Colour of each group; neighbours in number are far apart in hue."""
    colours = {}
    for i, name in enumerate(placement.groups):
        rgb = colorsys.hls_to_rgb((0.58 + i * _GOLDEN) % 1.0, 0.36 if i % 2 else 0.46, 0.75)
        colours[name] = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
    return colours


def _head(title: str, placement: Placement, layout: Layout) -> Iterator[str]:
    width, height = max(layout.size_wh[0], 1000.0), layout.size_wh[1] + _HEADER
    int8 = len(placement.int8_layers())
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
    yield f' viewBox="0 0 {width:.0f} {height:.0f}">'
    yield f"<style>{_STYLE}</style>"
    yield f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>'
    yield f'<text class="title" x="24" y="30">{escape(title or "Quantized graph")}</text>'
    facts = f"{len(placement.layers)} layers, {int8} int8, {len(placement.groups)} scale groups"
    yield f'<text class="kind" x="24" y="48">{facts}</text>'
    x = 24.0
    for precision, text in _LEGEND:
        yield f'<rect x="{x}" y="58" width="16" height="12" rx="3" {_paint(precision)}/>'
        yield f'<text x="{x + 22}" y="68">{text}</text>'
        x += 22 + (len(text) + 3) * _LETTER
    yield f'<path d="M{x} 64h16" stroke="{_GREY}" stroke-width="1.3"/><text x="{x + 22}" y="68">no scale</text>'
    x += 22 + 11 * _LETTER
    yield f'<path d="M{x} 64h16" stroke="#1d6fd1" stroke-width="2.4"/>'
    yield f'<text x="{x + 22}" y="68">one colour, one scale; a box names the group it reads</text>'
    yield f'<g transform="translate({(width - layout.size_wh[0]) / 2:.1f} {_HEADER:.0f})">'


def _paint(precision: str) -> str:
    return f'fill="{_FILLS[precision]}" stroke="{_LINES[precision]}"'


def _edge(edge: tuple[str, str], boxes: Mapping[str, _Box], layout: Layout, colours: Mapping[str, str]) -> str:
    start, end = (layout.centres_xy[name] for name in edge)
    points = [(start[0], start[1] + _BOX_HEIGHT / 2)]
    for x, y in layout.routes[edge]:
        points += [(x, y - _BOX_HEIGHT / 2), (x, y + _BOX_HEIGHT / 2)]
    points.append((end[0], end[1] - _BOX_HEIGHT / 2))
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for i in range(1, len(points)):
        (x0, y0), (x1, y1) = points[i - 1], points[i]
        bend = (y1 - y0) / 2
        is_lane = i % 2 == 0
        curve = f"C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} {x1:.1f} {y1:.1f}"
        path += f"L{x1:.1f} {y1:.1f}" if is_lane else curve
    group = boxes[edge[0]].gives
    colour, width = (colours[group], 2.4) if group else (_GREY, 1.3)
    return f'<path d="{path}" stroke="{colour}" stroke-width="{width}"/>'


def _draw_box(box: _Box, centre_xy: tuple[float, float], colours: Mapping[str, str]) -> Iterator[str]:
    x, y = centre_xy[0] - box.width / 2, centre_xy[1] - _BOX_HEIGHT / 2
    yield f"<g><title>{escape(box.tooltip)}</title>"
    yield (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{_BOX_HEIGHT:.0f}" rx="5" '
        f"{_paint(box.precision)}/>"
    )
    first, second = box.lines
    yield f'<text x="{x + 12:.1f}" y="{y + (17 if second else 24):.1f}">{escape(first)}</text>'
    if second:
        yield f'<text class="kind" x="{x + 12:.1f}" y="{y + 32:.1f}">{escape(second)}</text>'
    if box.reads:
        chip = len(box.reads) * _LETTER + 8
        yield (
            f'<rect x="{x + box.width - chip - 6:.1f}" y="{y - 7:.1f}" width="{chip:.1f}" height="14" rx="7" '
            f'fill="{colours[box.reads]}"/>'
        )
        yield f'<text class="chip" x="{x + box.width - chip - 2:.1f}" y="{y + 3.5:.1f}">{escape(box.reads)}</text>'
    if box.gives:
        yield (
            f'<rect x="{x + 6:.1f}" y="{y + _BOX_HEIGHT - 3:.1f}" width="{box.width - 12:.1f}" height="3" '
            f'fill="{colours[box.gives]}"/>'
        )
    yield "</g>"
