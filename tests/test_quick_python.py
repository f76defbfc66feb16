"""What stands for `python` in tests that start programs does with them what Python does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAYS = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['WORD'], sys.stdin.read(), __name__)\n"
PROGRAMS = {
    "said": ["-c", SAYS, "one", "two words"],
    "script": ["script.py", "--flag"],
    "module": ["-m", "own", "-x"],
    "exit": ["-c", "import sys; print('out', flush=True); sys.exit(4)"],
    "message": ["-c", "import sys; sys.exit('no')"],
    "none": ["-c", "import sys; sys.exit()"],
    "killed": ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_end_as_in_python(name: str, quick_python: list[str], tmp_path: Path) -> None:
    for file in ("script.py", "own.py"):
        (tmp_path / file).write_text(SAYS)
    (tmp_path / "path").mkdir()
    variables = os.environ | {"WORD": "told", "PYTHONPATH": str(tmp_path / "path")}
    wanted, found = (
        subprocess.run(
            [*python, *PROGRAMS[name]], cwd=tmp_path, env=variables, input="in", capture_output=True, text=True
        )
        for python in ([sys.executable], quick_python)
    )
    assert (found.stdout, found.stderr) == (wanted.stdout, wanted.stderr)
    assert found.returncode == wanted.returncode % 256


def test_errors_show_where_and_nothing_of_ours_is_imported(quick_python: list[str]) -> None:
    code = "import sys; assert 'torch' in sys.modules; raise ValueError('edgeyolo' in sys.modules)"
    done = subprocess.run([*quick_python, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.endswith("ValueError: False\n")
