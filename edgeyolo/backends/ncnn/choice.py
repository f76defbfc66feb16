"""Which layers of an int8 network are cheaper in float on a core, and which of the others go without winograd.

An integer program over the whole network, solved exactly: a layer's cost depends on its neighbours', because a float
tensor must be quantized for an int8 reader, and an int8 result read by int8 layers only never becomes float.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeyolo.backends.ncnn.costs import CoreCosts, Way, convolution_kind, instructions
from edgeyolo.backends.ncnn.files import Layer
from edgeyolo.backends.ncnn.requantize import bottom_scale, is_int8_convolution, list_readers
from edgeyolo.backends.ncnn.shapes import Shape
from edgeyolo.spec.packages import import_package

_GAP = 1e-9  # of the cost: how much worse than the best the solver may end


@dataclass(frozen=True)
class Costs:
    """Instructions of one convolution.

    Attributes:
        floating: in float. integer: from int8 to float. chained: from int8 to int8.
        direct: how many times as much int8 to float costs without winograd, and int8 to int8.
    """

    floating: float
    integer: float
    chained: float
    direct: tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """What was chosen.

    Attributes:
        float_layers: names of int8 layers that run in float instead.
        direct: how many times as much each int8 layer costs without winograd, by name.
        costs: convolutions that there was a choice for, by name.
        instructions: estimated, of these convolutions and what stands between them: as chosen, all int8, all float.
    """

    float_layers: frozenset[str]
    direct: dict[str, float]
    costs: dict[str, Costs]
    instructions: tuple[float, float, float]


def choose(layers: Sequence[Layer], shapes: Mapping[str, Shape], table: CoreCosts, float_way: Way) -> Plan:
    """The cheapest precision of each int8 layer.

    Args:
        layers: an int8 network, not requantized yet.
        shapes: of its blobs.
        table: of the core. Layers of a kind that it does not know stay as they are.
        float_way: how the core computes what is not int8.
    """
    costs = {layer.name: known for layer in layers if (known := _layer_costs(layer, shapes, table, float_way))}
    program = _Program()
    int8 = {name: program.variable(one.integer - one.floating) for name, one in costs.items()}
    base = sum(one.floating for one in costs.values())
    chains = _add_tensors(program, layers, shapes, table, costs, int8)
    values = program.solve({})
    totals = [base + program.cost(values)]
    totals += [base + program.cost(program.solve(dict.fromkeys(int8.values(), fixed))) for fixed in (1.0, 0.0)]
    kept = {name for name, variable in int8.items() if values[variable] > 0.5}
    chained = {name for name, variable in chains.items() if values[variable] > 0.5}
    direct = {name: costs[name].direct[name in chained] for name in kept}
    return Plan(frozenset(costs) - kept, direct, costs, (totals[0], totals[1], totals[2]))


def _layer_costs(layer: Layer, shapes: Mapping[str, Shape], table: CoreCosts, float_way: Way) -> Costs | None:
    if not is_int8_convolution(layer):
        return None
    in_chs, shape = shapes[layer.inputs[0]][0], shapes[layer.outputs[0]]
    kind = convolution_kind(layer, in_chs)
    ways = table.convolutions.get(kind, {})
    if len(shape) != 3 or not {float_way, "int8", "chained"} <= set(ways):
        return None
    cost = {way: instructions(rates, kind, in_chs, shape) for way, rates in ways.items()}
    direct = [cost.get(f"{way}-direct", cost[way]) for way in ("int8", "chained")]  # type: ignore[call-overload]
    return Costs(
        cost[float_way],
        min(cost["int8"], direct[0]),
        min(cost["chained"], direct[1]),
        (direct[0] / cost["int8"], direct[1] / cost["chained"]),
    )


def _add_tensors(
    program: _Program,
    layers: Sequence[Layer],
    shapes: Mapping[str, Shape],
    table: CoreCosts,
    costs: Mapping[str, Costs],
    int8: Mapping[str, int],
) -> dict[str, int]:
    """What tensors between layers cost; name of each layer that may give int8 -> the variable that says it does.

    Every int8 reader quantizes a float tensor for itself, and every float reader casts the result of an int8 layer.
    """
    by_blob = {blob: layer for layer in layers for blob in layer.inputs}
    chains = {}
    for layer in layers:
        if layer.kind == "Split":
            continue
        for blob in layer.outputs:
            readers = list_readers(blob, by_blob)
            numbers = math.prod(shapes[blob])
            maker = int8.get(layer.name)
            known = [reader for reader in readers if reader is not None]
            inside = [int8[reader.name] for reader in known if reader.name in int8]
            always = [reader for reader in known if reader.name not in int8 and is_int8_convolution(reader)]
            others = len(known) - len(inside) - len(always)
            if maker is None:
                for reader in inside:
                    program.add(reader, table.quantize * numbers)
                continue
            program.add(maker, table.cast * numbers * others)
            program.add(maker, (table.quantize_result - table.quantize) * numbers * len(always))
            for reader in inside:  # int8 from float, int8 from an int8 layer's float, float from an int8 layer's float
                program.add(reader, table.quantize * numbers)
                program.add(maker, table.cast * numbers)
                both = program.both(maker, reader)
                program.add(both, (table.quantize_result - table.quantize - table.cast) * numbers)
            scales = {bottom_scale(r) if r is not None and is_int8_convolution(r) else None for r in readers}
            if len(scales) == 1 and None not in scales and inside:
                one = costs[layer.name]
                chain = program.all_of([maker, *inside])
                saved = table.quantize_result * numbers * len(readers)
                program.add(chain, one.chained - one.integer - saved)
                chains[layer.name] = chain
    return chains


@dataclass
class _Program:
    """An integer program: the sum of chosen costs is to be least."""

    costs: list[float] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float]] = field(default_factory=list)  # (coefficients, at most)

    def variable(self, cost: float) -> int:
        """A new yes or no."""
        self.costs.append(cost)
        return len(self.costs) - 1

    def add(self, variable: int, cost: float) -> None:
        """A yes costs so much more."""
        self.costs[variable] += cost

    def both(self, one: int, other: int) -> int:
        """A variable that is yes where both are."""
        return self.all_of([one, other])

    def all_of(self, variables: Sequence[int]) -> int:
        """A variable that is yes where all are."""
        made = self.variable(0.0)
        self.rows += [({made: 1.0, variable: -1.0}, 0.0) for variable in variables]
        self.rows.append(({made: -1.0} | dict.fromkeys(variables, 1.0), len(variables) - 1.0))
        return made

    def cost(self, values: Sequence[float]) -> float:
        """Of an assignment."""
        return sum(cost * value for cost, value in zip(self.costs, values, strict=True))

    def solve(self, fixed: Mapping[int, float]) -> list[float]:
        """The cheapest assignment that has these values."""
        if not self.costs:
            return []
        optimize = import_package("scipy.optimize", needed_for="choosing precisions by cost", extra="train")
        sparse = import_package("scipy.sparse", needed_for="choosing precisions by cost", extra="train")
        count = len(self.costs)
        lower = [fixed.get(i, 0.0) for i in range(count)]
        upper = [fixed.get(i, 1.0) for i in range(count)]
        matrix = sparse.lil_matrix((max(1, len(self.rows)), count))
        for index, (coefficients, _) in enumerate(self.rows):
            for variable, value in coefficients.items():
                matrix[index, variable] = value
        bounds = [most for _, most in self.rows] or [0.0]
        found = optimize.milp(
            self.costs,
            constraints=optimize.LinearConstraint(matrix.tocsr(), -float("inf"), bounds),
            integrality=[1] * count,
            bounds=optimize.Bounds(lower, upper),
            options={"mip_rel_gap": _GAP},
        )
        return [round(value) for value in found.x.tolist()]
