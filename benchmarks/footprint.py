"""What edgeyolo takes on a board: bytes installed, time to the first detection, and memory over many detections.

    python benchmarks/footprint.py cells.eyb [--detections 20000] [--image photo.jpg]

Makes a fresh virtual environment with only what a board needs (`pip install edgeyolo[ncnn]` from this checkout), and
runs the bundle in it: once to remember that the engine runs on this processor, then for the times. Memory is the
resident set of the process, read from /proc/self/status. One detection runs over and over on one picture; a model of
some 160 to 320 pixels makes that minutes. Writes benchmarks/results/footprint.json and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from record import RESULTS, save_result

ROOT = Path(__file__).parents[1]
SHIPPED = ("edgeyolo", "targets", "calib", "setup.py", "pyproject.toml", "README.md", "LICENSE")
STARTS = 5
MIB = 1 << 20
INSTALLERS = ("pip", "setuptools")  # of the environment; a board can do without them

# Run on the board's Python: prints JSON lines.
FIRST = """
import sys, time
from edgeyolo.runtime import Detector
import numpy as np
with Detector.load(sys.argv[1], threads=int(sys.argv[2])) as detector:
    detector.detect(np.full((720, 1280, 3), 114, np.uint8))
"""
IMPORT = "import time; b = time.perf_counter(); import {0}; print(time.perf_counter() - b)"
MANY = """
import json, sys
import cv2, numpy as np
from edgeyolo.runtime import Detector

def memory_mib(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field + ":"))

path, count, picture = sys.argv[1], int(sys.argv[2]), sys.argv[3]
image = cv2.imread(picture) if picture else np.random.default_rng(0).integers(0, 256, (720, 1280, 3)).astype(np.uint8)
with Detector.load(path, threads=int(sys.argv[4])) as detector:
    found = 0
    for i in range(1, count + 1):
        found = len(detector.detect(image))
        if i == 1 or i % 1000 == 0:
            line = {"detections": i, "rss_mib": memory_mib("VmRSS"), "peak_mib": memory_mib("VmHWM")}
            print(json.dumps(line), flush=True)
print(json.dumps({"objects": found, "modules": sorted(m for m in sys.modules if "." not in m and m in
      ("torch", "onnx", "onnxruntime", "pnnx", "cv2", "numpy", "ncnn", "typer", "rich", "yaml", "msgspec"))}))
"""


def main() -> None:
    """Install, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--detections", type=int, default=20_000)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "footprint.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        python = install(Path(work))
        os.environ["EDGEYOLO_CACHE"] = str(Path(work) / "cache")
        result = {
            "bundle_bytes": arguments.bundle.stat().st_size,
            "installed_bytes": list_installed(python),
            "import_s": time_imports(python),
            "first_detection_s": time_starts(python, arguments.bundle, arguments.threads),
            "threads": arguments.threads,
            **watch_memory(python, arguments.bundle, arguments.detections, arguments.image, arguments.threads),
        }
    save_result(arguments.out, result)
    print_table(result)


def install(work: Path) -> Path:
    """The Python of a fresh environment with edgeyolo[ncnn], installed from a copy of the checkout."""
    source = work / "source"
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    venv.create(work / "board", with_pip=True)
    python = work / "board" / "bin" / "python"
    pip = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", f"{source}[ncnn]"], check=True)
    return python


def list_installed(python: Path) -> dict[str, int]:
    """Bytes of each package that runs, the largest first, from their own lists of files; installers are not counted."""
    code = """
import importlib.metadata, json, os
sizes = {}
for package in importlib.metadata.distributions():
    files = [str(package.locate_file(f)) for f in package.files or []]
    sizes[package.metadata["Name"]] = sum(os.path.getsize(f) for f in files if os.path.isfile(f))
print(json.dumps(sizes))
"""
    sizes: dict[str, int] = json.loads(run(python, code))
    return {name: size for name, size in sorted(sizes.items(), key=lambda item: -item[1]) if name not in INSTALLERS}


def time_imports(python: Path) -> dict[str, float]:
    """Median seconds of importing numpy and cv2, and of edgeyolo.runtime, which brings both, by turns."""
    times: dict[str, list[float]] = {"numpy, cv2": [], "edgeyolo.runtime": []}
    for _ in range(STARTS):
        for modules in times:
            times[modules].append(float(run(python, IMPORT.format(modules))))
    return {modules: statistics.median(taken) for modules, taken in times.items()}


def time_starts(python: Path, bundle: Path, threads: int) -> dict[str, float]:
    """Seconds from the start of the process to the end of its first detection: on a new machine, and after."""
    taken = []
    for _ in range(1 + STARTS):
        started = time.perf_counter()
        run(python, FIRST, str(bundle), str(threads))
        taken.append(time.perf_counter() - started)
    return {"first start": taken[0], "later starts": statistics.median(taken[1:])}


def watch_memory(python: Path, bundle: Path, count: int, image: Path | None, threads: int) -> dict[str, Any]:
    """Resident memory as detections go by."""
    said = run(python, MANY, str(bundle), str(count), str(image or ""), str(threads))
    lines = [json.loads(line) for line in said.splitlines()]
    return {"memory": lines[:-1], **lines[-1]}


def run(python: Path, code: str, *arguments: str) -> str:
    """What the code prints."""
    done = subprocess.run([str(python), "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout


def print_table(result: dict[str, Any]) -> None:
    """Print the tables as Markdown."""
    out = sys.stdout.write
    out("| package | MiB |\n|---|---|\n")
    for name, size in result["installed_bytes"].items():
        out(f"| {name} | {size / MIB:.1f} |\n")
    out(f"| together | {sum(result['installed_bytes'].values()) / MIB:.1f} |\n\n| what | |\n|---|---|\n")
    for name, seconds in (result["import_s"] | result["first_detection_s"]).items():
        out(f"| {name}, s | {seconds:.3f} |\n")
    for line in result["memory"]:
        out(f"| resident after {line['detections']:,} detections, MiB | {line['rss_mib']:.1f} |\n")


if __name__ == "__main__":
    main()
