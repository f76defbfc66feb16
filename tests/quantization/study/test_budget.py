"""The search under a budget against brute force over every prefix, with AP functions of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.quantization import Quantized, quantize
from edgeyolo.quantization.study.budget import BudgetResult, meet_budget
from edgeyolo.spec.errors import UnknownNameError
from edgeyolo.spec.recipe import Recipe

FLOAT_AP = 50.0
DEPTH = 12


class Deep(nn.Module):
    """Groups of one layer, and the last of three."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 2, 1)
        self.body = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(DEPTH - 2))
        self.fan = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(3))
        self.head = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, *self.body):
            x = F.relu(layer(x))
        return self.head(F.relu(self.fan[0](x)) * F.relu(self.fan[1](x)) * F.relu(self.fan[2](x)))


@lru_cache
def deep() -> Quantized:
    picture = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(title="", observer="max")
    return quantize(Deep().eval(), [picture], recipe, recipe_name="", picture_hashes={})


def floated(quantized: Quantized) -> frozenset[str]:
    return frozenset(deep().placement.groups) - frozenset(quantized.placement.groups)


def run(ap_of: Callable[[frozenset[str]], float], ranking: list[str], max_drop: float = 0.3) -> BudgetResult:
    return meet_budget(
        deep(), ranking, float_ap=FLOAT_AP, max_drop=max_drop, measure_deployed=lambda q: ap_of(floated(q))
    )


def check_promises(result: BudgetResult, ap_of: Callable[[frozenset[str]], float], max_drop: float) -> None:
    """What the docstring says of any measurements at all."""
    measured = [frozenset(step.groups) for step in result.trail]
    assert len(measured) == len(set(measured)) <= 2 * math.log2(DEPTH - 1) + 6
    assert floated(result.quantized) == frozenset(result.floated)
    assert frozenset(result.floated) in measured
    assert result.quantized.placement.int8_layers()
    assert result.met == any(FLOAT_AP - ap_of(groups) <= max_drop for groups in measured)
    if result.met:
        assert FLOAT_AP - ap_of(frozenset(result.floated)) <= max_drop
    else:
        assert ap_of(frozenset(result.floated)) == max(ap_of(groups) for groups in measured)
    for step in result.trail:
        assert step.ap == ap_of(frozenset(step.groups))
        assert step.drop == FLOAT_AP - step.ap
        assert step.layers == sum(len(deep().placement.groups[group].layers) for group in step.groups)


RANKINGS = st.permutations([f"g{i}" for i in range(DEPTH)])
COSTS = st.lists(st.integers(0, 20).map(lambda cost: cost / 20), min_size=DEPTH, max_size=DEPTH)


def test_the_net_is_what_this_file_says() -> None:
    assert len(deep().placement.groups) == DEPTH
    assert [len(group.layers) for group in deep().placement.groups.values()] == [1] * (DEPTH - 1) + [3]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(RANKINGS, COSTS, st.integers(0, 60).map(lambda drop: drop / 20))
def test_the_shortest_prefix_where_each_group_costs_something(
    ranking: list[str], costs: list[float], max_drop: float
) -> None:
    """AP never falls when more is floated, so brute force over the prefixes says what the search must find."""
    cost = dict(zip(ranking, costs, strict=True))

    def ap_of(groups: frozenset[str]) -> float:
        return FLOAT_AP - sum(value for group, value in sorted(cost.items()) if group not in groups)

    result = run(ap_of, ranking, max_drop)
    check_promises(result, ap_of, max_drop)
    prefixes = [ranking[:length] for length in range(DEPTH)]
    meeting = [prefix for prefix in prefixes if FLOAT_AP - ap_of(frozenset(prefix)) <= max_drop]
    assert result.met == bool(meeting)
    if not meeting:
        assert len(result.floated) == max(len(step.groups) for step in result.trail) == DEPTH - 1 or (
            ap_of(frozenset(result.floated)) == ap_of(frozenset(ranking[: DEPTH - 1]))
        )
        return
    shortest = meeting[0]
    assert set(result.floated) <= set(shortest)
    assert frozenset(shortest) in {frozenset(step.groups) for step in result.trail}
    assert len(shortest) - len(result.floated) <= 3
    if len(shortest) <= 4:  # each of its groups was tried
        for group in result.floated:
            assert FLOAT_AP - ap_of(frozenset(result.floated) - {group}) > max_drop


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(RANKINGS, st.integers(0, 2**30), st.floats(0.0, 1.0))
def test_the_promises_hold_for_any_measurements(ranking: list[str], seed: int, max_drop: float) -> None:
    def ap_of(groups: frozenset[str]) -> float:
        return FLOAT_AP - (hash((seed, tuple(sorted(int(group[1:]) for group in groups)))) % 1000) / 700

    result = run(ap_of, ranking, max_drop)
    check_promises(result, ap_of, max_drop)
    lengths = {len(step.groups) for step in result.trail if step.groups == tuple(ranking[: len(step.groups)])}
    meeting = [k for k in lengths if FLOAT_AP - ap_of(frozenset(ranking[:k])) <= max_drop]
    if result.met and min(meeting) > 0:  # the prefix one shorter was measured and failed
        assert min(meeting) - 1 in lengths


def test_nothing_is_floated_where_int8_is_good_enough() -> None:
    result = run(lambda _: 49.9, ["g3", "g1"])
    assert (result.met, result.floated, len(result.trail)) == (True, (), 1)
    assert result.quantized is deep()


def test_a_better_int8_model_than_float_is_within_any_budget() -> None:
    assert run(lambda _: 50.4, ["g3"], max_drop=0.0).floated == ()


def test_one_guilty_group_wherever_it_stands() -> None:
    """It, and no other among those that can be tried again, stays float."""
    for place in range(DEPTH - 1):
        ranking = [f"g{i}" for i in range(DEPTH)]
        ranking.insert(place, ranking.pop())  # g11, with three layers
        result = run(lambda groups: 50.0 if "g11" in groups else 40.0, ranking)
        assert result.met
        assert "g11" in result.floated
        assert len(result.floated) == max(1, place + 1 - 3)


def test_the_largest_groups_are_given_back_first() -> None:
    result = run(lambda groups: 50.0 if "g5" in groups else 40.0, ["g0", "g1", "g2", "g11", "g5", "g6"])
    assert [set(step.groups) ^ {"g0", "g1", "g2", "g11", "g5"} for step in result.trail][-3] == {"g11"}
    assert "g11" not in result.floated
    assert result.trail[-1].layers == len(result.floated) == 2


def test_a_budget_that_cannot_be_met_gives_the_best_found(caplog: pytest.LogCaptureFixture) -> None:
    result = run(lambda groups: 45.0 - abs(len(groups) - 4), [f"g{i}" for i in range(DEPTH)])
    assert not result.met
    assert result.floated == ("g0", "g1", "g2", "g3")
    assert [len(step.groups) for step in result.trail] == [0, 1, 2, 4, 8, 11]
    assert floated(result.quantized) == {"g0", "g1", "g2", "g3"}
    assert "the best is 5.00" in caplog.text
    even = run(lambda _: 40.0, [f"g{i}" for i in range(DEPTH)])
    assert even.floated == ()  # of equals, the one with the fewest float layers


def test_measurements_that_are_no_numbers_do_not_meet_a_budget() -> None:
    result = run(lambda groups: math.nan if len(groups) < 2 else 30.0, ["g0", "g1", "g2"])
    assert (result.met, len(result.floated)) == (False, 2)


def test_a_short_ranking_an_empty_one_and_unknown_names() -> None:
    assert run(lambda _: 40.0, []).met is False
    assert len(run(lambda _: 40.0, ["g2", "g2"]).trail) == 2
    with pytest.raises(UnknownNameError, match="scale group 'g99'"):
        run(lambda _: 40.0, ["g99"])


def test_reasons_and_progress() -> None:
    class Bar:
        def __init__(self) -> None:
            self.steps: list[tuple[str, int, int, str]] = []

        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            self.steps.append((stage, done, total, text))

    bar = Bar()
    result = meet_budget(
        deep(),
        ["g4", "g5"],
        float_ap=50.0,
        max_drop=0.5,
        measure_deployed=lambda q: 49.0 + len(floated(q)),
        progress=bar,
    )
    why = "floated: to meet the accuracy budget"
    assert [path for path, plan in result.quantized.placement.layers.items() if plan.why == why] == ["body.3"]
    assert [(stage, done) for stage, done, _, _ in bar.steps] == [("budget", 1), ("budget", 2)]
    assert bar.steps[1][3] == "1 layers float: AP 50.00, drop 0.00"
    assert all(done <= total for _, done, total, _ in bar.steps)
