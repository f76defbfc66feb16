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

MIDR = {"cortex-a53": 0x410FD034, "cortex-a72": 0x410FD083, "cortex-a76": 0x414FD0B1}  # Arm's technical manuals
FEATURES = {"cortex-a76": "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"}


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


def write_board_root(folder: Path, root: Path, cpu: str) -> Path:
    """A board's files with what its kernel says of the core.

    ncnn chooses code for the Cortex-A53 by it, and other engines' wheels die without it: the emulator shows the
    /proc/cpuinfo of this machine otherwise, with a processor that is not an ARM at all.
    """
    identification = folder / "sys/devices/system/cpu/cpu0/regs/identification"
    for made in (identification, folder / "proc"):
        made.mkdir(parents=True)
    for part in root.iterdir():
        (folder / part.name).symlink_to(part)
    midr = MIDR[cpu]
    (identification / "midr_el1").write_text(f"{midr:#018x}\n")
    said = {
        "processor": "0",
        "Features": FEATURES.get(cpu, "fp asimd aes pmull sha1 sha2 crc32 cpuid"),
        "CPU implementer": f"{midr >> 24:#04x}",
        "CPU architecture": "8",
        "CPU variant": f"{midr >> 20 & 0xF:#x}",
        "CPU part": f"{midr >> 4 & 0xFFF:#05x}",
        "CPU revision": f"{midr & 0xF}",
    }
    (folder / "proc/cpuinfo").write_text("".join(f"{name}\t: {value}\n" for name, value in said.items()) + "\n")
    return folder


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
        if cpu in MIDR:  # others are no silicon
            environment["BOARD_ROOT"] = str(write_board_root(Path(work) / "board", python.parent / "root", cpu))
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
