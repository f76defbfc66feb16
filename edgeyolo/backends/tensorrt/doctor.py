"""What stands between this machine and running TensorRT plans: package, driver, GPU, in the order they are needed."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeyolo.backends.engine import Finding
from edgeyolo.backends.tensorrt.adapter import install_hint, load_tensorrt
from edgeyolo.backends.tensorrt.cache import kept_plans, plan_folder
from edgeyolo.backends.tensorrt.cuda import Cuda
from edgeyolo.backends.tensorrt.options import PackageName
from edgeyolo.spec.errors import BackendError, MissingPackageError

_JETSON_RELEASE = Path("/etc/nv_tegra_release")
_SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")
_PACKAGES: tuple[PackageName, ...] = ("tensorrt", "tensorrt_rtx")


def examine_gpu() -> list[Finding]:
    """Findings, the first thing to mend first."""
    findings = [_jetson()] if _JETSON_RELEASE.is_file() else []
    findings += [_package(name) for name in _PACKAGES]
    findings.append(_driver())
    count, size = kept_plans()
    findings.append(Finding("plans are kept in", f"{plan_folder()} ({count} of {size / 2**20:.0f} MiB in all)"))
    return findings


def can_run(package: PackageName) -> bool:
    """Whether the package and a GPU are here."""
    try:
        load_tensorrt(package)
        Cuda()
    except (MissingPackageError, BackendError):
        return False
    return True


def _jetson() -> Finding:
    return Finding("Jetson", _JETSON_RELEASE.read_text(errors="replace").split("\n", 1)[0].lstrip("# "))


def _package(name: PackageName) -> Finding:
    try:
        return Finding(name, load_tensorrt(name).version)
    except MissingPackageError:
        if name == "tensorrt" and (_SYSTEM_PACKAGES / name).is_dir() and sys.prefix != sys.base_prefix:
            hint = "This virtual environment hides it: make it again with python3 -m venv --system-site-packages"
            return Finding(name, f"installed in {_SYSTEM_PACKAGES}, not seen from here", hint)
        return Finding(name, "missing", f"For {_board_of(name)}: {install_hint(name)}")
    except BackendError as error:
        return Finding(name, error.what, "Reinstall it; on a Jetson all of JetPack: sudo apt install nvidia-jetpack")


def _board_of(name: PackageName) -> str:
    return "a desktop GPU" if name == "tensorrt_rtx" else "a Jetson"


def _driver() -> Finding:
    try:
        cuda = Cuda()
        found = f"{cuda.name}, compute capability {cuda.compute_capability}, CUDA {cuda.driver_version()}"
    except MissingPackageError as error:
        return Finding("CUDA driver", "not asked: cuda-python is missing", error.hint)
    except BackendError as error:
        hint = (
            "In a container: start it with --runtime nvidia. On a Jetson: sudo apt install nvidia-jetpack. "
            "Elsewhere: install NVIDIA's driver and see that nvidia-smi runs"
        )
        return Finding("CUDA driver", error.what, hint)
    return Finding("CUDA driver", found)
