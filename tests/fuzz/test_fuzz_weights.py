"""A few hundred altered weight files of benchmarks/fuzz_weights.py, from fixed seeds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest


@pytest.mark.parametrize("seed", [1, 2])
def test_altered_weight_files_load_or_are_refused(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import fuzz_weights

    outcomes = [fuzz_weights.read(fuzz_weights.write_case(random.Random(seed * 300 + i), tmp_path)) for i in range(300)]
    assert set(outcomes) == {"loads", "CheckpointError"}
    assert outcomes.count("loads") < 60
