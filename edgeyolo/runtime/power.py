"""What a board takes from its supply, where it shows that: sensors of Jetsons and others, batteries, RAPL, a Pi's PMIC.

A sensor says watts at this moment, and is asked now and then while something runs; a counter says joules since some
moment, and is asked at both ends.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeyolo.spec.benchmark import Rail

_EVERY_S = 0.2  # how often sensors are asked
_PMIC_EVERY_S = 1.0  # a program has to be started to ask it
_INA3221_RAILS = ("1", "2", "3")  # 4 to 7 are the shunts' own voltages, and sums
_PMIC_LINE = re.compile(r"(\w+)_([AV])(?: \w+\(\d+\))?=([\d.]+)")

Sensors = Mapping[tuple[str, str], float]  # (source, rail) -> watts now


def read_sensors(root: Path = Path("/")) -> dict[tuple[str, str], float]:
    """Watts of each rail at this moment.

    Args:
        root: folder that has its `sys`.
    """
    found = dict(_read_hwmon(root / "sys/class/hwmon"))
    found |= dict(_read_iio(root / "sys/bus/iio/devices"))
    found |= dict(_read_supplies(root / "sys/class/power_supply"))
    return found


def read_counters(root: Path = Path("/")) -> dict[str, tuple[float, float]]:
    """Joules that each domain of an x86 processor has taken, and at how many its counter begins anew.

    Source: Linux, Documentation/power/powercap/powercap.rst.
    """
    found = {}
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        energy, most = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
        name = _read(zone / "name") or zone.name
        if energy is not None and name not in found:
            found[name] = (energy / 1e6, (most or 0.0) / 1e6)
    return found


def read_pmic() -> float | None:
    """Watts of all rails of a Raspberry Pi 5 together, as its power chip measures them; None elsewhere.

    What hangs on USB is not in it.

    Source: Raspberry Pi documentation, vcgencmd pmic_read_adc.
    """
    command = shutil.which("vcgencmd")
    if command is None:
        return None
    try:
        told = subprocess.run(
            [command, "pmic_read_adc"], capture_output=True, text=True, check=False, timeout=5, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    read: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in _PMIC_LINE.findall(told.stdout):
        read[unit][rail] = float(value)
    watts = [amperes * read["V"][rail] for rail, amperes in read["A"].items() if rail in read["V"]]
    return sum(watts) if watts else None


def _read_hwmon(folder: Path) -> Iterator[tuple[tuple[str, str], float]]:
    """Chips that measure current and voltage, such as the INA3221 of Jetsons, or power itself.

    Source: Linux, Documentation/hwmon/sysfs-interface.rst (mV, mA, microwatts) and ina3221.rst; NVIDIA Jetson Linux
    Developer Guide, Software-Based Power Consumption Modeling.
    """
    for chip in sorted(folder.glob("hwmon*")):
        source = _read(chip / "name")
        for current in sorted(chip.glob("curr*_input")):
            number = current.name.removeprefix("curr").removesuffix("_input")
            milliamperes, millivolts = _number(current), _number(chip / f"in{number}_input")
            label = _read(chip / f"in{number}_label") or _read(chip / f"curr{number}_label")
            is_rail = source != "ina3221" or number in _INA3221_RAILS
            if milliamperes is not None and millivolts is not None and is_rail:
                yield (source, label or f"channel {number}"), milliamperes * millivolts / 1e6
        for power in sorted(chip.glob("power*_input")):
            microwatts = _number(power)
            if microwatts is not None:
                yield (
                    (source, _read(power.with_name(power.name.replace("_input", "_label"))) or power.name),
                    (microwatts / 1e6),
                )


def _read_iio(folder: Path) -> Iterator[tuple[tuple[str, str], float]]:
    """The INA3221 as Jetsons showed it before JetPack 5: `rail_name_0` beside `in_power0_input`, milliwatts."""
    for device in sorted(folder.glob("iio:device*")):
        for named in sorted(device.glob("rail_name_*")):
            milliwatts = _number(device / f"in_power{named.name.removeprefix('rail_name_')}_input")
            if milliwatts is not None:
                yield ("ina3221x", _read(named)), milliwatts / 1e3


def _read_supplies(folder: Path) -> Iterator[tuple[tuple[str, str], float]]:
    """Batteries that are being emptied.

    Source: Linux, Documentation/ABI/testing/sysfs-class-power (microwatts, microamperes, microvolts).
    """
    for supply in sorted(folder.glob("*")):
        if _read(supply / "type") != "Battery" or _read(supply / "status") != "Discharging":
            continue
        power = _number(supply / "power_now")
        current, voltage = _number(supply / "current_now"), _number(supply / "voltage_now")
        if power is not None:
            yield ("battery", supply.name), abs(power) / 1e6
        elif current is not None and voltage is not None:
            yield ("battery", supply.name), abs(current) * voltage / 1e12


@dataclass
class PowerMeter:
    """Watches the supply between `with` and its end; nothing is started where nothing can be read.

    Attributes:
        root: folder that has its `sys`.
    """

    root: Path = Path("/")
    _taken: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _counted: dict[str, float] = field(default_factory=dict)
    _seconds: float = 0.0

    def __enter__(self) -> PowerMeter:
        self._ended = threading.Event()
        self._begun_s, self._counters = time.perf_counter(), read_counters(self.root)
        watch: list[tuple[Callable[[], Sensors], float]] = []
        if read_sensors(self.root):
            watch.append((lambda: read_sensors(self.root), _EVERY_S))
        if read_pmic() is not None:
            watch.append((_pmic_rail, _PMIC_EVERY_S))
        self._threads = [threading.Thread(target=self._watch, args=how, daemon=True) for how in watch]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._seconds = time.perf_counter() - self._begun_s
        for name, (joules, _most) in read_counters(self.root).items():
            before, most = self._counters.get(name, (joules, 0.0))
            self._counted[name] = joules - before if joules >= before else joules + most - before

    def rails(self, calls: int) -> tuple[Rail, ...]:
        """What was taken, and what each of so many calls took."""
        watched = [
            Rail(
                source=source,
                name=name,
                mean_w=(mean := sum(watts) / len(watts)),
                most_w=max(watts),
                joules_per_call=mean * self._seconds / calls,
            )
            for (source, name), watts in self._taken.items()
        ]
        counted = [
            Rail(source="RAPL", name=name, mean_w=joules / self._seconds, joules_per_call=joules / calls)
            for name, joules in self._counted.items()
        ]
        return (*watched, *counted)

    def _watch(self, read: Callable[[], Sensors], every_s: float) -> None:
        while True:
            for rail, watts in read().items():
                self._taken.setdefault(rail, []).append(watts)
            if self._ended.wait(every_s):
                return


def _pmic_rail() -> dict[tuple[str, str], float]:
    watts = read_pmic()
    return {} if watts is None else {("PMIC", "all rails"): watts}


def _number(path: Path) -> float | None:
    try:
        return float(_read(path))
    except ValueError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
