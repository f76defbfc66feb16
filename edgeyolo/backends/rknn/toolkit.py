"""Rockchip's toolkit in an environment of its own: it wants other versions of numpy and onnx than anybody else does.

The environment is a folder of packages in the user's cache, made by `edgeyolo doctor --install rknn`. The licence of
Rockchip's SDK is Rockchip's own: the toolkit is no part of edgeyolo, and the user installs it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from edgeyolo.backends.rknn.process import ToolkitProcess
from edgeyolo.spec.atomic import make_folder_once
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import BackendError, MissingPackageError
from edgeyolo.spec.machine import machine_here

FOLDER_VARIABLE = "EDGEYOLO_RKNN_TOOLKIT"
VERSION = "2.5.0"
# What it imports, and no more: it asks for an older torch, and for packages that it does without.
REQUIREMENTS = (
    f"rknn-toolkit2=={VERSION}",
    "numpy==1.26.4",
    "onnx==1.18.0",
    "protobuf==4.25.8",
    "onnxruntime==1.22.1",
    "opencv-python-headless==4.11.0.86",
    "scipy==1.15.3",
    "setuptools==79.0.1",
    "torch==2.13.0",
    "tqdm==4.67.1",
    "typing_extensions==4.16.0",
)
INSTALL = "edgeyolo doctor --install rknn"
_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 10), (3, 12)
_PIP_LIMIT_S = 3600
_TAIL_LINES = 6


def toolkit_folder() -> Path:
    """Where the packages are, or will be: another folder for other versions of them, or of Python."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    told = "\n".join((*REQUIREMENTS, f"{sys.version_info.major}.{sys.version_info.minor}"))
    return cache_folder("toolkits") / f"rknn-{VERSION}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def find_toolkit(*, needed_for: str) -> Path:
    """The folder of its packages.

    Raises:
        BackendError: it does not run on this kind of computer. MissingPackageError: not installed.
    """
    check_computer()
    folder = toolkit_folder()
    if not (folder / "rknn").is_dir():
        raise MissingPackageError("rknn-toolkit2", needed_for=needed_for, install=INSTALL)
    return folder


def has_toolkit() -> bool:
    """Whether it is installed and can run here."""
    try:
        find_toolkit(needed_for="")
    except (BackendError, MissingPackageError):
        return False
    return True


def check_computer() -> None:
    """Raise BackendError where there is no toolkit for this kind of computer."""
    here, python = f"{sys.platform} on {machine_here()}", sys.version_info[:2]
    wanted = "Rockchip's toolkit runs on Linux on x86-64"
    if (sys.platform, machine_here()) != ("linux", "x86_64"):
        raise BackendError(f"{wanted}, and this is {here}", hint="Deploy and evaluate there; the board runs the bundle")
    if not _OLDEST_PYTHON <= python <= _NEWEST_PYTHON:
        raise BackendError(
            f"{wanted} with Python 3.{_OLDEST_PYTHON[1]} to 3.{_NEWEST_PYTHON[1]}, and this is {python[0]}.{python[1]}",
            hint="Make edgeyolo's own environment with such a Python",
        )


def install_toolkit() -> Path:
    """Download the packages into their folder and try them; what is there already stays. Where it is interrupted,
    nothing of that name is there, and the next time clears up.

    Raises:
        BackendError: no toolkit for this computer, or pip fails, or the toolkit does not start. OutputError: the folder
            cannot be written.
    """
    check_computer()
    return make_folder_once(toolkit_folder(), _fill, doing="installing Rockchip's toolkit")


def _fill(folder: Path) -> None:
    name = folder.name.rpartition(".tmp-")[0]
    for left in folder.parent.glob(f"{name}.tmp-*"):
        if left != folder:
            shutil.rmtree(left, ignore_errors=True)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--no-warn-conflicts"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), *REQUIREMENTS]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PIP_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"pip did not end within {_PIP_LIMIT_S} s") from None
    if done.returncode != 0:
        said = "\n".join(done.stdout.decode("utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
        raise BackendError(
            f"Rockchip's toolkit cannot be installed. pip said:\n{said}",
            hint=f"Its package index must have {REQUIREMENTS[0]}, and 2 GB must be free",
        )
    ToolkitProcess(folder).close()
