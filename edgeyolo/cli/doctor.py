"""`edgeyolo doctor`: what this machine has, and how to get what it lacks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

from edgeyolo.cli.console import Console
from edgeyolo.spec.machine import describe_machine

PANEL = "What there is"

# Distribution name, module, what it is for, how to install it.
_PACKAGES = (
    ("numpy", "numpy", "everything", "pip install edgeyolo"),
    ("opencv-python-headless", "cv2", "pictures", "pip install edgeyolo"),
    ("msgspec", "msgspec", "file formats", "pip install edgeyolo"),
    ("ncnn", "ncnn", "engine: ncnn boards", "pip install 'edgeyolo[ncnn]'"),
    ("onnxruntime", "onnxruntime", "engine: ONNX Runtime", "pip install 'edgeyolo[onnxruntime]'"),
    ("pycocotools", "pycocotools", "evaluate", "pip install 'edgeyolo[evaluate]'"),
    ("torch", "torch", "train, quantize", "pip install 'edgeyolo[train]'"),
    ("safetensors", "safetensors", "checkpoints", "pip install 'edgeyolo[train]'"),
    ("nvidia-modelopt", "modelopt", "quantize", "pip install 'edgeyolo[train]'"),
    ("onnx", "onnx", "quantize, deploy", "pip install 'edgeyolo[train]'"),
    ("onnxslim", "onnxslim", "quantize, deploy", "pip install 'edgeyolo[train]'"),
    ("pnnx", "pnnx", "deploy to ncnn", "pip install 'edgeyolo[train]'"),
)


def doctor(console: Console) -> None:
    """Say what is installed, what is missing and how to get it."""
    machine = describe_machine()
    packages = [_describe_package(*entry) for entry in _PACKAGES]
    features = ", ".join(machine["cpu_features"]) or "not known"
    console.show_table(
        ["", ""],
        [(key.replace("_", " "), features if key == "cpu_features" else value) for key, value in machine.items()],
    )
    console.show_table(
        ["package", "version", "for", "how to get it"],
        [(p["package"], p["version"] or "missing", p["for"], "" if p["version"] else p["install"]) for p in packages],
    )
    from edgeyolo.backends.tensorrt.doctor import examine_gpu

    gpu = examine_gpu()
    console.show_table(["NVIDIA GPU", "found", "what to do"], [(f.what, f.found, f.hint) for f in gpu])
    findings = [{"what": f.what, "found": f.found, "hint": f.hint} for f in gpu]
    console.show_json({"machine": machine, "packages": packages, "gpu": findings})


def _describe_package(package: str, module: str, purpose: str, install: str) -> dict[str, Any]:
    """Version from the package's metadata; "unknown" where the module is there under another distribution."""
    version = None
    if importlib.util.find_spec(module) is not None:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
    return {"package": package, "version": version, "for": purpose, "install": install}
