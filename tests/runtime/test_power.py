"""Power, from folders that look like a board's `/sys`, and from a program that answers like a Raspberry Pi 5's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeyolo.runtime.power import PowerMeter, read_counters, read_pmic, read_sensors

# JetPack 5 and later: mV and mA; channels 4 to 7 are of the shunts, and no rails.
ORIN_NANO = {
    "sys/class/hwmon/hwmon0/name": "thermal\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5040\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1500\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr2_input": "400\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon1/in7_input": "12\n",
    "sys/class/hwmon/hwmon1/in4_input": "7\n",
    "sys/class/hwmon/hwmon1/curr4_input": "1900\n",
}
# JetPack 4: milliwatts.
NANO = {
    "sys/bus/iio/devices/iio:device0/rail_name_0": "POM_5V_IN\n",
    "sys/bus/iio/devices/iio:device0/in_power0_input": "2250\n",
    "sys/bus/iio/devices/iio:device0/rail_name_1": "POM_5V_GPU\n",
    "sys/bus/iio/devices/iio:device0/in_power1_input": "123\n",
}
OTHER_CHIP = {
    "sys/class/hwmon/hwmon3/name": "ina260\n",
    "sys/class/hwmon/hwmon3/power1_input": "4210000\n",
    "sys/class/hwmon/hwmon3/power1_label": "board\n",
}
BATTERY = {
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Discharging\n",
    "sys/class/power_supply/BAT0/current_now": "-1000000\n",
    "sys/class/power_supply/BAT0/voltage_now": "11400000\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/power_now": "999000000\n",
}
PACKAGE = "sys/class/powercap/intel-rapl:0"
RAPL = {
    f"{PACKAGE}/name": "package-0\n",
    f"{PACKAGE}/energy_uj": "900000000\n",
    f"{PACKAGE}/max_energy_range_uj": "1000000000\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "5000000\n",
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "1000000000\n",
}
PMIC = """\
 3V7_WL_SW_A current(0)=0.00292782A
   VDD_CORE_A current(7)=2.00000000A
 3V7_WL_SW_V volt(8)=3.72240200V
   VDD_CORE_V volt(15)=0.75000000V
      EXT5V_V volt(24)=5.14875800V
"""


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        (ORIN_NANO, {("ina3221", "VDD_IN"): 7.56, ("ina3221", "VDD_CPU_GPU_CV"): 2.0}),
        (NANO, {("ina3221x", "POM_5V_IN"): 2.25, ("ina3221x", "POM_5V_GPU"): 0.123}),
        (OTHER_CHIP, {("ina260", "board"): 4.21}),
        (BATTERY, {("battery", "BAT0"): 11.4}),
        (BATTERY | {"sys/class/power_supply/BAT0/status": "Charging\n"}, {}),
        ({}, {}),
    ],
)
def test_sensors(tmp_path: Path, files: dict[str, str], watts: dict[tuple[str, str], float]) -> None:
    assert read_sensors(lay_out(tmp_path, files)) == pytest.approx(watts)


def test_sensors_are_asked_while_calls_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    lay_out(tmp_path, ORIN_NANO)
    with PowerMeter(tmp_path) as meter:
        pass
    by_name = {rail.name: rail for rail in meter.rails(10)}
    assert set(by_name) == {"VDD_IN", "VDD_CPU_GPU_CV"}
    assert by_name["VDD_IN"].mean_w == by_name["VDD_IN"].most_w == pytest.approx(7.56)
    assert 0 < by_name["VDD_IN"].joules_per_call < 7.56


def test_energy_is_counted_also_where_the_counter_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    lay_out(tmp_path, RAPL)
    assert read_counters(tmp_path) == {"package-0": (900.0, 1000.0), "core": (5.0, 1000.0)}
    with PowerMeter(tmp_path) as meter:
        lay_out(tmp_path, {f"{PACKAGE}/energy_uj": "10000000\n"})
    package, core = meter.rails(10)
    assert (package.source, package.name, package.most_w) == ("RAPL", "package-0", None)
    assert package.joules_per_call == pytest.approx(11.0) and core.joules_per_call == 0
    assert package.mean_w > 110  # 110 J in less than a second


def test_what_only_root_may_read_is_left_out(tmp_path: Path) -> None:
    lay_out(tmp_path, {f"{PACKAGE}/name": "package-0\n"})
    assert read_counters(tmp_path) == {}


def test_a_raspberry_pi_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Current times voltage of each rail that has both."""
    program = tmp_path / "vcgencmd"
    program.write_text(f'#!/bin/sh\n[ "$1" = pmic_read_adc ] && /bin/cat <<END\n{PMIC}END\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_pmic() == pytest.approx(0.00292782 * 3.722402 + 1.5)
    with PowerMeter(tmp_path) as meter:
        pass
    (rail,) = meter.rails(1)
    assert (rail.source, rail.name) == ("PMIC", "all rails") and rail.mean_w == pytest.approx(1.5109, abs=1e-4)


def test_an_older_raspberry_pi_has_no_such_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text("#!/bin/sh\necho 'error=1 error_msg=\"Command not registered\"'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}")
    assert read_pmic() is None
    monkeypatch.setenv("PATH", "")
    assert read_pmic() is None
