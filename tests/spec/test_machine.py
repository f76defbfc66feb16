"""The processor, as Linux tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeyolo.spec import machine


def test_a_board_is_named_where_cpuinfo_names_no_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n\nprocessor\t: 1\n")
    (tmp_path / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "_BOARD", tmp_path / "model")
    assert machine.processor_name() == "Raspberry Pi 5 Model B Rev 1.0"
    monkeypatch.setattr("sys.platform", "freebsd")
    assert machine.list_cpu_features() == {"fp", "asimd", "asimddp"}
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    assert machine.list_cpu_features() == frozenset()


def test_the_description_holds_only_what_tells_something() -> None:
    described = machine.describe_machine()
    assert set(described["cpu_features"]) <= machine.list_cpu_features()
    assert described["processor"] == machine.processor_name()
