"""Altered ONNX detectors of benchmarks/fuzz_onnx.py, from fixed seeds, and ways to ask for all memory, one by one."""

from __future__ import annotations

import importlib
import random
import resource
from pathlib import Path
from types import ModuleType

import pytest
from onnx import helper

from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.importing import ImportOptions
from edgeyolo.spec.memory import bounded_memory
from edgeyolo.verbs._import_onnx import read_graph


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("fuzz_onnx")


def most_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("seed", [1, 2])
def test_altered_detectors_are_read_or_refused(seed: int, fuzz: ModuleType, tmp_path: Path) -> None:
    before = most_mib()
    outcomes = [fuzz.read(fuzz.write_case(random.Random(seed * 60 + i), tmp_path)) for i in range(60)]
    assert set(outcomes) == {"reads", "BackendError"}
    assert 0 < outcomes.count("reads") < 30
    assert most_mib() - before < 2048


def test_the_detector_as_it_is(fuzz: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "whole.onnx").write_bytes(fuzz.make_detector().SerializeToString())
    with pytest.raises(BackendError, match="of no anchor head"):
        read_graph(tmp_path / "whole.onnx", ImportOptions(head="anchor"))
    (tmp_path / "names.txt").write_text("0\n1")
    assert fuzz.read(tmp_path / "whole.onnx") == "reads"


def test_what_does_not_read_the_picture(fuzz: ModuleType, tmp_path: Path) -> None:
    model = fuzz.make_detector()
    model.graph.node[0].input[0] = "other"
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["other"]))
    model.graph.initializer.append(helper.make_tensor("size", 7, [4], [1, 3, 64, 64]))
    (tmp_path / "blind.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match="does not depend on the picture"):
        read_graph(tmp_path / "blind.onnx", ImportOptions())


def test_memory_beyond_the_bound_is_refused_and_given_again_afterwards() -> None:
    with pytest.raises(BackendError, match="needs more than 8 MiB"), bounded_memory(where="file", most=8 << 20):
        bytearray(128 << 20)
    assert len(bytearray(128 << 20)) == 128 << 20


@pytest.mark.parametrize("is_hidden", [True, False])
def test_a_tensor_larger_than_memory(is_hidden: bool, fuzz: ModuleType, tmp_path: Path) -> None:
    """One whose size only running tells, and one whose size stands in the file."""
    wanted = "NonZero" if is_hidden else "Identity"
    for seed in range(100):
        model = fuzz.make_detector()
        fuzz.fill_memory(model, random.Random(seed))
        huge = fuzz.numpy_helper.to_array(model.graph.initializer[-1])
        if model.graph.node[0].op_type == wanted and huge.prod() >= 1 << 36:
            break
    (tmp_path / "huge.onnx").write_bytes(model.SerializeToString())
    before = most_mib()
    with pytest.raises(BackendError):
        read_graph(tmp_path / "huge.onnx", ImportOptions())
    assert most_mib() - before < 512
