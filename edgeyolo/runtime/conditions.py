"""Temperature, clock and whatever holds it down, as Linux tells them: a time without them says little of a board."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edgeyolo.spec.benchmark import Conditions

_SLOWER = 0.9  # of the clock at the beginning: less at the end is called throttling

# Raspberry Pi: bits of what its firmware says is so at this moment.
# Source: Raspberry Pi documentation, vcgencmd get_throttled.
_PI_FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"
_PI_REASONS = ("under-voltage", "clock capped", "throttled", "soft temperature limit")

# Jetson: what the GPU is called where its clock is, and counters of over-current events, which halve clocks.
# Source: NVIDIA Jetson Linux Developer Guide, Jetson Orin series: GPU frequency scaling, over-current throttling.
_JETSON_GPUS = (".gpu", ".ga10b", ".gv11b", ".gp10b", ".gm20b")


def read_conditions(root: Path = Path("/")) -> Conditions:
    """The state of this computer.

    Args:
        root: folder that has its `sys`.
    """
    cpus = root / "sys/devices/system/cpu"
    thermal = root / "sys/class/thermal"
    clocks_khz = list(_read_numbers(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")))
    heat = [value for value in _read_numbers(thermal.glob("thermal_zone*/temp")) if value > 0]
    gpus = (path for name in _JETSON_GPUS for path in (root / "sys/class/devfreq").glob(f"*{name}/cur_freq"))
    gpu_clocks_hz = list(_read_numbers(gpus))
    governors = {_read(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return Conditions(
        temperature_c=max(heat) / 1e3 if heat else None,
        clock_mhz=sum(clocks_khz) / len(clocks_khz) / 1e3 if clocks_khz else None,
        governor=", ".join(sorted(governors - {""})),
        throttled=(*_list_pi_reasons(root), *_list_cooling(thermal)),
        gpu_clock_mhz=gpu_clocks_hz[0] / 1e6 if gpu_clocks_hz else None,
        throttle_count=sum(_read_numbers(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")))
        + sum(_read_numbers((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))),
    )


def list_throttling(before: Conditions, after: Conditions) -> tuple[str, ...]:
    """What slowed the processor down between two moments of full load."""
    reasons = dict.fromkeys((*before.throttled, *after.throttled))
    if after.throttle_count > before.throttle_count:
        reasons["the processor throttled itself"] = None
    if before.gpu_clock_mhz and after.gpu_clock_mhz and after.gpu_clock_mhz < _SLOWER * before.gpu_clock_mhz:
        reasons[f"the GPU's clock fell from {before.gpu_clock_mhz:.0f} to {after.gpu_clock_mhz:.0f} MHz"] = None
    if before.clock_mhz and after.clock_mhz and after.clock_mhz < _SLOWER * before.clock_mhz:
        reasons[f"clock fell from {before.clock_mhz:.0f} to {after.clock_mhz:.0f} MHz"] = None
    return tuple(reasons)


def _list_pi_reasons(root: Path) -> Iterator[str]:
    with contextlib.suppress(ValueError):
        bits = int(_read(root / _PI_FIRMWARE), 16)
        yield from (reason for bit, reason in enumerate(_PI_REASONS) if bits >> bit & 1)


def _list_cooling(thermal: Path) -> Iterator[str]:
    """Cooling of processors that works by slowing them down."""
    for device in sorted(thermal.glob("cooling_device*")):
        kind = _read(device / "type")
        if ("cpu" in kind or kind == "Processor") and _read(device / "cur_state") not in ("", "0"):
            yield f"cooling of {kind}"


def _read_numbers(paths: Iterator[Path]) -> Iterator[int]:
    for path in paths:
        with contextlib.suppress(ValueError):
            yield int(_read(path))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
