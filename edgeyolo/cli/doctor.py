"""`edgeyolo doctor`: what this machine has, and how to get what it lacks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.deploying import DoctorOptions
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.machine import describe_machine
from edgeyolo.spec.packages import Package

PANEL = "What there is"

_PACKAGES = (
    Package("numpy", "numpy", "everything"),
    Package("opencv-python-headless", "cv2", "pictures"),
    Package("msgspec", "msgspec", "file formats"),
    Package("pycocotools", "pycocotools", "evaluate", "evaluate"),
    Package("h11", "h11", "serve", "live"),
    Package("prometheus-client", "prometheus_client", "serve", "live"),
    Package("paho-mqtt", "paho.mqtt", "serve --mqtt", "live"),
    Package("torch", "torch", "train, quantize", "train"),
    Package("safetensors", "safetensors", "checkpoints", "train"),
    Package("nvidia-modelopt", "modelopt", "quantize --qat", "train"),
    Package("onnx", "onnx", "quantize, deploy", "train"),
    Package("onnxslim", "onnxslim", "quantize, deploy", "train"),
)


def doctor(console: Console, options: DoctorOptions) -> None:
    """Say what is installed, what is missing and how to get it; with --install, get it."""
    if options.install:
        _install(options.install, console, is_agreed=options.yes)
        return
    from edgeyolo.backends import list_engines, list_packages, load_engine

    machine = describe_machine()
    packages = [_describe_package(package) for package in (*_PACKAGES, *list_packages())]
    features = ", ".join(machine["cpu_features"]) or "not known"
    console.show_table(
        ["", ""],
        [(key.replace("_", " "), features if key == "cpu_features" else value) for key, value in machine.items()],
    )
    console.show_table(
        ["package", "version", "for", "how to get it"],
        [(p["package"], p["version"] or "missing", p["for"], "" if p["version"] else p["install"]) for p in packages],
    )
    engines = {name: load_engine(name).examine() for name in list_engines()}
    for name, findings in engines.items():
        if findings:
            console.show_table([name, "found", "what to do"], [(f.what, f.found, f.hint) for f in findings])
    told = {name: [asdict(finding) for finding in findings] for name, findings in engines.items()}
    console.show_json({"machine": machine, "packages": packages, "engines": told})


def _install(name: str, console: Console, *, is_agreed: bool) -> None:
    """Make the environment of an engine that needs one of its own, once the user agrees."""
    from edgeyolo.backends import load_engine

    engine = load_engine(name)
    environment = engine.own_environment()
    if environment is None:
        hint = "; ".join(dict.fromkeys(package.install for package in engine.packages))
        raise UsageError(f"{name} needs no environment of its own", hint=f"Install its packages: {hint}")
    console.say(environment.notice)
    if not is_agreed:
        typer.confirm("Install it?", abort=True, err=True)
    folder = environment.make()
    console.say(f"It is in {folder}, and can be deleted at any time")
    console.show_json({"installed": str(folder)})


def _describe_package(package: Package) -> dict[str, Any]:
    return {
        "package": package.distribution,
        "version": package.installed_version(),
        "for": package.purpose,
        "install": package.install,
    }
