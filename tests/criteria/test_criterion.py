"""What every criterion shares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROCESS = """
import sys, torch
from torch import distributed
from edgeyolo.criteria.criterion import mean_over_processes
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
assert mean_over_processes(torch.tensor(3.0 + 4.0 * rank)).item() == 5.0
distributed.destroy_process_group()
"""


def test_scores_are_summed_over_processes(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", _PROCESS]
    processes = [subprocess.Popen([*arguments, str(rank), str(tmp_path / "store")]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
