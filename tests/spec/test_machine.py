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


def test_two_processors_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, siblings in enumerate(("0,4", "1,5", "2-3", "2-3", "0,4", "1,5")):
        (tmp_path / f"cpu{number}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}" / "topology" / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(machine, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5}, raising=False)
    assert machine.count_cores() == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 4})
    assert machine.count_cores() == 1
    monkeypatch.setattr(machine, "_TOPOLOGY", tmp_path / "none")
    assert machine.count_cores() == 2


@pytest.mark.parametrize(
    ("here", "features", "saturates"),
    [
        ("x86_64", {"avx2", "fma"}, True),
        ("x86_64", {"avx2", "avx512f", "avx512bw"}, True),
        ("x86_64", {"avx2", "avx_vnni"}, False),
        ("x86_64", {"avx512f", "avx512_vnni"}, False),
        ("x86_64", set(), True),
        ("aarch64", {"asimd"}, False),
    ],
)
def test_bytes_saturate_on_x86_without_vnni(
    here: str, features: set[str], saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "machine_here", lambda: here)
    monkeypatch.setattr(machine, "list_cpu_features", lambda: frozenset(features))
    assert machine.saturates_bytes() is saturates
