"""Estimates of networks that others measured, each left out with its twin: they are as good on these boards as asked.

The published times are the reference; they are in the boards' own files, which a test compares with the table that they
came from where that is at hand.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeyolo.latency import Network, boards_of, estimate, list_boards, load_board
from edgeyolo.latency.networks import as_row, load_known
from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.work import Convolution

ROOT = Path(__file__).parents[2]
TABLE = ROOT.parent / "shared" / "data" / "ncnn_benchmark"
PROCESSORS = [name for name in list_boards() if load_board(name).runs]
CONVOLUTIONS = {name: network.list_convolutions() for name, network in load_known().networks.items()}
ASKED = {"raspberry-pi-3": 4, "raspberry-pi-4": 4, "raspberry-pi-5": 4, "rk3588": 4, "jetson-orin-nano-cpu": 6}


def known(name: str, *, is_timed: bool = True) -> Network:
    ms = load_known().networks[name].ms if is_timed else None
    return Network(CONVOLUTIONS[name], "int8" if name.endswith("_int8") else "fp16", ms)


def test_each_network_left_out_is_estimated_as_well_as_was_asked() -> None:
    """On all these boards together: median error at most 20 %, nine of ten at most 45 %, four of five in the range.

    What was timed here is known better than what was not.
    """
    medians = []
    for is_timed in (True, False):
        errors, inside = [], []
        for board, threads in ASKED.items():
            for run in (run for run in load_board(board).runs if run.threads == threads):
                for name, ms in run.ms.items():
                    found = estimate(known(name, is_timed=is_timed), board, threads=threads, without=name)
                    errors.append(abs(found.middle_ms / ms - 1))
                    inside.append(found.low_ms <= ms <= found.high_ms)
        medians.append(np.median(errors))
        assert np.percentile(errors, 90) <= 0.45
        assert np.mean(inside) >= 0.80
    assert medians[0] < medians[1] <= 0.20


@pytest.mark.parametrize("name", list_boards())
def test_every_board_gives_a_range_and_says_what_it_rests_on(name: str) -> None:
    board = load_board(name)
    found = estimate(known("resnet18_int8"), name)
    assert 0 < found.low_ms < found.middle_ms < found.high_ms and 0.7 < found.coverage <= 0.9
    assert found.kind == "estimated" and "published" in found.rests_on and all(found.sources)
    assert found.threads == max((run.threads for run in board.runs), default=0)
    assert (found.method == "interpolated") == (not board.runs)
    if board.runs:
        assert board.licence and set().union(*(run.ms for run in board.runs)) <= set(CONVOLUTIONS)


def test_twice_as_slow_here_is_slower_there() -> None:
    slow = dataclasses.replace(known("mobilenet_v2"), known_ms=2 * load_known().networks["mobilenet_v2"].ms)
    once, twice = estimate(known("mobilenet_v2"), "raspberry-pi-4"), estimate(slow, "raspberry-pi-4")
    assert 1.3 < twice.middle_ms / once.middle_ms < 2.1


def test_a_doubtful_time_counts_less() -> None:
    """The estimate goes from what the time here says to what the layers say, and its range is wider."""
    by_layers = estimate(known("mobilenet_v2", is_timed=False), "raspberry-pi-4")
    slow = Network(CONVOLUTIONS["mobilenet_v2"], "fp16", 3 * load_known().networks["mobilenet_v2"].ms)
    found = [estimate(dataclasses.replace(slow, doubt=d), "raspberry-pi-4") for d in (0.0, 0.3, 1.0, 30.0)]
    assert [one.middle_ms for one in found] == sorted((one.middle_ms for one in found), reverse=True)
    widths = [one.high_ms / one.low_ms for one in found]
    assert min(widths) == widths[0]
    assert found[-1].middle_ms == pytest.approx(by_layers.middle_ms, rel=0.01)


def test_floats_of_another_kind_are_counted() -> None:
    """The table's floats are half precision on this core; without it, there are more instructions."""
    half, single = (
        estimate(dataclasses.replace(known("resnet50"), precision=p), "raspberry-pi-5") for p in ("fp16", "fp32")
    )
    assert 1.4 < single.middle_ms / half.middle_ms < 2.5
    on_old = [estimate(dataclasses.replace(known("resnet50"), precision=p), "raspberry-pi-4") for p in ("fp16", "fp32")]
    assert on_old[0].middle_ms == on_old[1].middle_ms


def test_threads_that_nobody_measured_are_the_nearest() -> None:
    assert [estimate(known("resnet18"), "raspberry-pi-5", threads=t).threads for t in (0, 1, 2, 3, 9)] == [
        4,
        1,
        1,
        4,
        4,
    ]


def test_a_line_goes_through_points_that_lie_on_one() -> None:
    """On a GPU: time follows size, and a size between two published ones gets a time between theirs."""
    between = [Convolution((1, 1), 1, 1, 1000, 1000, positions) for positions in (3250, 5000, 34000)]
    found = [estimate(Network([one], "int8"), "jetson-orin-nano").middle_ms for one in between]
    assert found == sorted(found) and 3.0 < found[0] < 4.5 and 8.0 < found[2] < 11.0


def test_what_nobody_published_is_not_guessed() -> None:
    with pytest.raises(UsageError, match=r"too little is published of RK3588 .* in fp16"):
        estimate(known("resnet18"), "rockchip-rk3588-npu")
    with pytest.raises(UnknownNameError, match="Did you mean 'raspberry-pi-5'"):
        boards_of("raspbery-pi-5")
    with pytest.raises(UsageError, match=r"nothing is published .* on intel-n100 .*Boards that are known: .*rk3588"):
        boards_of("intel-n100")


def test_a_target_stands_for_its_boards() -> None:
    assert boards_of("raspberry-pi-3") == ["raspberry-pi-3"] == [boards_of("raspberry-pi-3")[0]]
    assert boards_of("raspberry-pi-zero-2-w") == ["raspberry-pi-zero-2-w"]
    assert boards_of("raspberry-pi-500") == ["raspberry-pi-5"] and boards_of("jetson") == ["jetson-orin-nano"]
    assert "jetson-nano-cpu" in boards_of("jetson-cpu")


@pytest.mark.skipif(not TABLE.is_dir(), reason="needs ncnn's table in ../shared/data/ncnn_benchmark")
def test_the_boards_are_what_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every time is in the table, in a line of that network; and the structures are those of the .param files."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    data = __import__("estimate_data")
    text = (TABLE / "README.md").read_text(encoding="utf-8")
    lines = {tuple(line.split()[:4]) for line in text.splitlines() if " min = " in line}
    for name in PROCESSORS:
        for run in load_board(name).runs:
            assert run.on in text
            assert all((network, "min", "=", f"{ms:.2f}") in lines for network, ms in run.ms.items())
    pytest.importorskip("ncnn", reason="runs the networks to find their shapes")
    _, convolutions = data.open_network(TABLE / "models" / "mobilenet_ssd_int8.param")
    assert [as_row(one) for one in convolutions] == [as_row(one) for one in CONVOLUTIONS["mobilenet_ssd_int8"]]
    assert "estimate_data" in sys.modules
