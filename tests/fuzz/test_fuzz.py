"""A few hundred altered bundles of benchmarks/fuzz.py, from fixed seeds, and every kind of hole that it has found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUZZ = ROOT / "benchmarks/fuzz.py"


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FUZZ), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("seed", [1, 2])
def test_altered_bundles_load_or_are_refused(seed: int, tmp_path: Path) -> None:
    done = fuzz("--count", 400, "--seed", seed, "--out", tmp_path / "fuzz.json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "fuzz.json").read_text())
    assert result["findings"] == []
    outcomes = result["outcomes"]
    assert sum(outcomes.values()) == 400
    for kind in ("param", "bin", "manifest", "archive"):  # some get as far as the engine, others do not
        assert outcomes[f"{kind}: valid"] > 0, outcomes
        assert sum(n for name, n in outcomes.items() if name.startswith(kind)) > outcomes[f"{kind}: valid"]


def test_a_case_is_the_same_every_time(tmp_path: Path) -> None:
    said = [fuzz("--only", 5, "--seed", 3, "--keep", tmp_path / name) for name in ("a", "b")]
    assert said[0].stdout == said[1].stdout != ""
    files = [sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in ("a", "b")]
    assert files[0] == files[1]


def test_deaths_and_hangs_of_a_child_are_found(tmp_path: Path) -> None:
    """The judge itself: cases that kill the process or never end are told apart from those that finish."""
    code = (
        "import sys, os, signal, time\n"
        f"sys.path.insert(0, {str(FUZZ.parent)!r}); import fuzz\n"
        "plain = fuzz.run_case\n"
        "def run_case(bases, seed, number, folder):\n"
        "    if number == 3: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if number == 5: time.sleep(60)\n"
        "    if number == 7: return 'FINDING manifest: KeyError'\n"
        "    return plain(bases, seed, number, folder)\n"
        "fuzz.run_case, fuzz.HANG_S, fuzz.__file__ = run_case, 3.0, sys.argv[0]\n"
        "fuzz.main()\n"
    )
    script = tmp_path / "broken_fuzz.py"
    script.write_text(code)
    command = [sys.executable, str(script), "--count", "9", "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {record["case"]: record["what"] for record in json.loads((tmp_path / "out.json").read_text())["findings"]}
    assert sorted(found) == [3, 5, 7]
    assert "ended with -11" in found[3] and "no end within" in found[5] and "KeyError" in found[7]
