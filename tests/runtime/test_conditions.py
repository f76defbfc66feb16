"""Temperature, clock and throttling as Linux tells them, from folders that look like a board's `/sys`."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeyolo.runtime.conditions import list_throttling, read_conditions
from edgeyolo.spec.benchmark import Conditions

PI = {
    "sys/class/thermal/thermal_zone0/temp": "61835\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1800000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
}


@pytest.fixture
def board(tmp_path: Path) -> Path:
    for name, text in PI.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_board_that_is_well(board: Path) -> None:
    """A fan cools without slowing anything down."""
    now = read_conditions(board)
    assert now == Conditions(temperature_c=61.835, clock_mhz=2100.0, governor="ondemand")
    assert list_throttling(now, now) == ()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n", "under-voltage|throttled"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n", ""),  # it was so, once
        ("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0\n", "cooling of cpufreq-cpu0"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1200000\n", "clock fell from 2100 to 1500 MHz"),
        ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "7\n", "the processor throttled itself"),
    ],
)
def test_what_slows_a_board_down_is_said(board: Path, name: str, text: str, reason: str) -> None:
    before = read_conditions(board)
    (board / name).parent.mkdir(exist_ok=True)
    (board / name).write_text(text)
    assert "|".join(list_throttling(before, read_conditions(board))) == reason


def test_a_jetson(tmp_path: Path) -> None:
    """The clock of its GPU, and over-current events, which slow it down."""
    gpu = tmp_path / "sys/class/devfreq/17000000.ga10b/cur_freq"
    events = tmp_path / "sys/class/hwmon/hwmon4/oc1_event_cnt"
    for path, text in ((gpu, "624750000\n"), (events, "2\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    before = read_conditions(tmp_path)
    assert before == Conditions(gpu_clock_mhz=624.75, throttle_count=2)
    gpu.write_text("306000000\n")
    events.write_text("3\n")
    reasons = list_throttling(before, read_conditions(tmp_path))
    assert reasons == ("the processor throttled itself", "the GPU's clock fell from 625 to 306 MHz")


def test_a_computer_that_tells_nothing(tmp_path: Path) -> None:
    assert read_conditions(tmp_path) == Conditions()
