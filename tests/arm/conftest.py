"""The emulated board. EDGEYOLO_REQUIRE_ARM=1 makes its absence a failure instead of a skip, as `make test-arm` does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LONGEST_S = 900


@pytest.fixture(scope="session")
def python_on_arm() -> Path:
    """The emulated board's Python."""
    command = [sys.executable, str(HERE / "setup_arm.py"), "--where"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0 and os.environ.get("EDGEYOLO_REQUIRE_ARM"):
        pytest.fail(asked.stderr)
    if asked.returncode != 0:
        pytest.skip(f"emulated ARM is not set up (make test-arm does it): {asked.stderr.strip()}")
    return Path(asked.stdout.strip())


@pytest.fixture(scope="session")
def start_on_arm(python_on_arm: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the emulated Python on a core: `start_on_arm(cpu, *arguments)`."""

    def start(cpu: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"QEMU_CPU": cpu, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
        command = [str(python_on_arm), *map(str, arguments)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False, cwd=HERE
        )

    return start


@pytest.fixture(scope="session")
def run_on_arm(start_on_arm: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """Runs evaluate_on_arm.py on a core, to its end: `run_on_arm(cpu, *arguments)`; the last line of what it says."""

    def run(cpu: str, *arguments: object) -> str:
        done = start_on_arm(cpu, HERE / "evaluate_on_arm.py", *arguments)
        assert done.returncode == 0, f"{cpu}: ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.splitlines()[-1]

    return run
