"""The deploy form as Graphviz text: which layers are int8, which tensors carry one scale, and why.

`dot -Tsvg graph.dot -o graph.svg` draws it; any viewer of Graphviz files shows it.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from edgeyolo.quantization.placement.explain import layer_kind
from edgeyolo.quantization.placement.groups import Placement, tensors_by_group
from edgeyolo.quantization.placement.operators import LAYERS, Effect, effect_of, operator_name
from edgeyolo.report.figures import GREY

_GOLDEN = 0.618033988749895
_FILLS = {"int8": "#d5ecd8", "float": "#fde0c5", "": "#f1f3f5"}
_LINES = {"int8": "#2f7d3b", "float": "#c0651b", "": GREY}
_STYLE = (
    'graph [rankdir=TB, fontname="Helvetica", fontsize=14, labelloc=t]',
    'node [shape=box, style="filled,rounded", fontname="Helvetica", fontsize=10]',
    f'edge [color="{GREY}", arrowsize=0.6]',
)


@dataclass(frozen=True)
class _Box:
    """One node of the drawing: an operator, together with the activation right after it.

    Attributes:
        lines: its text.
        precision: "int8" or "float" for a layer, "" for another operator.
        gives: the group that its output carries, "" for none.
    """

    lines: tuple[str, ...]
    precision: str
    gives: str


def graph_dot(deploy: fx.GraphModule, placement: Placement, title: str = "") -> str:
    """The graph in the DOT language, coloured by precision (boxes) and scale group (edges).

    A box says how its layer runs, why, and with the scale of which group. A layer and the activation after it are one
    box.

    Args:
        placement: of `deploy`.

    Source: the DOT language, https://graphviz.org/doc/info/lang.html.
    """
    modules = dict(deploy.named_modules())
    merged = _merge_activations(deploy, modules)
    group_of = {tensor: name for name, some in tensors_by_group(deploy, placement).items() for tensor in some}
    boxes = {n.name: _box(n, merged, placement, group_of, modules) for n in deploy.graph.nodes if n not in merged}
    owner = {node.name: merged.get(node, node).name for node in deploy.graph.nodes}
    edges = dict.fromkeys(
        (owner[source.name], owner[node.name])
        for node in deploy.graph.nodes
        for source in node.all_input_nodes
        if owner[source.name] != owner[node.name]
    )
    colours = _group_colours(placement)
    int8 = len(placement.int8_layers())
    facts = f"{len(placement.layers)} layers, {int8} int8 (green), {len(placement.groups)} scale groups (edges)"
    body = [
        *_STYLE,
        f"label={_quoted(title or 'Quantized graph', facts)}",
        *(_node_line(name, box) for name, box in boxes.items()),
        *(_edge_line(start, end, boxes[start].gives, colours) for start, end in edges),
    ]
    return "\n".join(("digraph {", *(f"  {line};" for line in body), "}", ""))


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
    name = str(node.target) if node.op == "call_module" else node.name
    kind = layer_kind(modules[name]) if node.op == "call_module" else operator_name(node, modules)
    if activation is not None:
        kind += f" + {operator_name(activation, modules)}"
    plan = placement.layers.get(name) if node.op == "call_module" else None
    lines = [name] if name.startswith(kind) else [name, kind]
    if plan:
        lines.append(f"{plan.precision}: {plan.why}" + (f", scale of {plan.group}" if plan.group else ""))
    gives = group_of.get((activation or node).name, "")
    return _Box(tuple(lines), plan.precision if plan else "", gives)


def _group_colours(placement: Placement) -> dict[str, str]:
    """Colour of each group; neighbours in number are far apart in hue."""
    colours = {}
    for i, name in enumerate(placement.groups):
        rgb = colorsys.hls_to_rgb((0.58 + i * _GOLDEN) % 1.0, 0.36 if i % 2 else 0.46, 0.75)
        colours[name] = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
    return colours


def _node_line(name: str, box: _Box) -> str:
    paint = f'fillcolor="{_FILLS[box.precision]}", color="{_LINES[box.precision]}"'
    return f"{_quoted(name)} [label={_quoted(*box.lines)}, {paint}]"


def _edge_line(start: str, end: str, group: str, colours: Mapping[str, str]) -> str:
    line = f"{_quoted(start)} -> {_quoted(end)}"
    if not group:
        return line
    return f'{line} [color="{colours[group]}", penwidth=2, tooltip={_quoted(group)}]'


def _quoted(*lines: str) -> str:
    """A DOT string of some lines of text."""
    return '"' + r"\n".join(_escaped(lines)) + '"'


def _escaped(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
