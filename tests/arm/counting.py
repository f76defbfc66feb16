"""Counts instructions of programs on an emulated core, with a plugin for qemu that is compiled here (count.c).

Every `os.getppid()` of the program is a mark. Counts are of one thread, and the same from run to run but for what a
Python does at its start; they are no milliseconds: caches, dual issue and memory bandwidth are not in them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE, COUNTED = HERE / "count.c", HERE / "counted.py"
COMPILER = shutil.which("cc")


def emulated_python() -> Path:
    """The board's Python as `setup_arm.py` gives it, set up if it is not there."""
    command = [sys.executable, str(HERE / "setup_arm.py")]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def build_plugin(folder: Path) -> Path:
    """The compiled plugin, in `folder`."""
    plugin = folder / "count.so"
    if COMPILER is None:
        raise SystemExit("counting instructions needs a C compiler called cc")
    subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", "-o", str(plugin), str(SOURCE)], check=True)
    return plugin


def count(python: Path, cpu: str, jobs: Sequence[dict[str, Any]], *, site: Path | None = None) -> list[dict[str, Any]]:
    """Instructions of each job of `counted.py`, in order: {"counts": {name of a layer, or "all": count}}.

    Args:
        python: the emulated board's.
        cpu: core, as qemu names it.
        site: folder of further packages for the emulated Python.
    """
    with tempfile.TemporaryDirectory(prefix="edgeyolo-count-") as work:
        plugin, log, listed = build_plugin(Path(work)), Path(work) / "marks", Path(work) / "jobs.json"
        listed.write_text(json.dumps(list(jobs)))
        path = os.pathsep.join(map(str, [ROOT] if site is None else [site, ROOT]))
        environment = os.environ | {"QEMU_CPU": cpu, "QEMU_PLUGIN": str(plugin), "QEMU_LOG": "plugin"}
        environment |= {"QEMU_LOG_FILENAME": str(log), "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        done = subprocess.run(
            [str(python), str(COUNTED), str(listed)], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{cpu}: counting ended with {done.returncode}:\n{done.stderr[-3000:]}")
        marks = map(int, log.read_text().split())
        return [_counts(json.loads(line), marks) for line in done.stdout.splitlines()]


def _counts(said: dict[str, Any], marks: Iterator[int]) -> dict[str, Any]:
    """What a job said, with its marks as counts: three of each layer, the last two around what the asking costs."""
    between = {}
    for name in said.pop("marked"):
        start, middle, end = next(marks), next(marks), next(marks)
        between[name] = max(0, 2 * middle - start - end)
    return {**said, "counts": between}
