"""Places the boxes of a directed acyclic graph in layers, top to bottom, and bends its edges around them.

Layers by longest path; an edge that crosses layers gets a narrow waypoint in each, so it has its own lane there; order
within a layer by barycentres; positions by least squares under the order.
Source: Sugiyama, Tagawa, Toda, "Methods for Visual Understanding of Hierarchical System Structures", 1981.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

_SWEEPS = 12
_GAP = 16.0
_LANE = 10.0


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in pixels, x to the right and y down.

    Attributes:
        centres_xy: of each box.
        routes: edge (from, to) -> x of its lane in each layer between the two, top to bottom; the layer is given by y.
        size_wh: of the whole drawing.
    """

    centres_xy: dict[str, tuple[float, float]]
    routes: dict[tuple[str, str], tuple[tuple[float, float], ...]]
    size_wh: tuple[float, float]


def layered_layout(
    widths: Mapping[str, float], edges: Iterable[tuple[str, str]], *, row_height: float, margin: float = 24.0
) -> Layout:
    """Place boxes so that none touches another.

    Args:
        widths: name of each box -> its width, in an order in which every edge points forward.
        edges: pairs of names; each at most once.
        row_height: distance of one layer from the next.
        margin: free space around the drawing.
    """
    kept = list(edges)
    layer_of = _longest_paths(widths, kept)
    rows: list[list[str]] = [[] for _ in range(max(layer_of.values(), default=0) + 1)]
    for name, layer in layer_of.items():
        rows[layer].append(name)
    lanes = _add_lanes(rows, layer_of, kept)
    links = [link for edge in kept for link in pairwise((edge[0], *lanes[edge], edge[1]))]
    all_widths = {name: widths.get(name, _LANE) for row in rows for name in row}
    above, below = _neighbours(all_widths, links)
    _order(rows, above, below)
    xs = _place(rows, all_widths, above, below)
    left = min((xs[name] - all_widths[name] / 2 for name in xs), default=0.0) - margin
    right = max((xs[name] + all_widths[name] / 2 for name in xs), default=0.0) + margin
    ys = {name: margin + (layer + 0.5) * row_height for layer, row in enumerate(rows) for name in row}
    points = {name: (xs[name] - left, ys[name]) for name in xs}
    return Layout(
        centres_xy={name: points[name] for name in widths},
        routes={edge: tuple(points[lane] for lane in lanes[edge]) for edge in kept},
        size_wh=(right - left, 2 * margin + len(rows) * row_height),
    )


def _longest_paths(widths: Mapping[str, float], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Number of the layer of each box: one below the lowest of those it comes from."""
    before: dict[str, list[str]] = {name: [] for name in widths}
    for start, end in edges:
        before[end].append(start)
    layers: dict[str, int] = {}
    for name in widths:
        layers[name] = 1 + max((layers[start] for start in before[name]), default=-1)
    return layers


def _add_lanes(
    rows: list[list[str]], layer_of: Mapping[str, int], edges: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Put a waypoint into every layer that an edge crosses; edges of one start share theirs."""
    lanes: dict[tuple[str, str], tuple[str, ...]] = {}
    for start, end in edges:
        crossed = range(layer_of[start] + 1, layer_of[end])
        names = tuple(f"{start}\n{layer}" for layer in crossed)
        for layer, name in zip(crossed, names, strict=True):
            if name not in rows[layer]:
                rows[layer].append(name)
        lanes[start, end] = names
    return lanes


def _neighbours(
    names: Iterable[str], links: Iterable[tuple[str, str]]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {name: [] for name in names}
    below: dict[str, list[str]] = {name: [] for name in above}
    for start, end in dict.fromkeys(links):
        above[end].append(start)
        below[start].append(end)
    return above, below


def _order(rows: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> None:
    """Sort each layer by the mean position of its neighbours, downwards and upwards in turn; keeps the best order."""
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(_SWEEPS):
        neighbours, order = (above, rows[1:]) if sweep % 2 == 0 else (below, rows[-2::-1])
        for row in order:
            place = {name: i / max(1, len(r) - 1) for r in rows for i, name in enumerate(r)}
            wanted = {name: _mean([place[n] for n in neighbours[name]], place[name]) for name in row}
            row.sort(key=wanted.__getitem__)
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _crossings(rows: Sequence[Sequence[str]], below: Mapping[str, list[str]]) -> int:
    """How often two links between neighbouring layers cross."""
    total = 0
    for upper, lower in pairwise(rows):
        place = {name: i for i, name in enumerate(lower)}
        ends = [sorted(place[n] for n in below[name]) for name in upper]
        flat = [end for some in ends for end in some]
        total += sum(flat[i] > flat[j] for i in range(len(flat)) for j in range(i + 1, len(flat)))
    return total


def _place(
    rows: Sequence[Sequence[str]],
    widths: Mapping[str, float],
    above: Mapping[str, list[str]],
    below: Mapping[str, list[str]],
) -> dict[str, float]:
    """x of each centre: near its neighbours, in the order of its layer, without touching."""
    xs: dict[str, float] = {}
    for row in rows:
        offsets = _offsets(row, widths)
        xs |= {name: offset - offsets[-1] / 2 for name, offset in zip(row, offsets, strict=True)}
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [_mean([xs[n] for n in (*above[name], *below[name])], xs[name]) for name in row]
            offsets = _offsets(row, widths)
            free = _isotonic([x - offset for x, offset in zip(wanted, offsets, strict=True)])
            xs |= {name: x + offset for name, x, offset in zip(row, free, offsets, strict=True)}
    return xs


def _offsets(row: Sequence[str], widths: Mapping[str, float]) -> list[float]:
    """Centres of a layer packed as closely as allowed, from 0."""
    steps = [(widths[left] + widths[right]) / 2 + _GAP for left, right in pairwise(row)]
    return list(accumulate(steps, initial=0.0))


def _isotonic(values: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `values` in squares, by pooling neighbours that violate the order."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (right, right_count), (left, left_count) = pools.pop(), pools.pop()
            count = left_count + right_count
            pools.append(((left * left_count + right * right_count) / count, count))
    return [value for value, count in pools for _ in range(count)]


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
