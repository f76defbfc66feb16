"""In: model.onnx, qparams.json and a target. Out: an artefact, and a session that runs it on a board.

Verb: `build` on the host, `open_artefact` on the board; `probe` says what is missing for either.

An engine is one module of this folder whose name does not begin with `_`; it has the same three functions as here.
Vendor packages are imported inside functions. The folder is the registry.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.errors import BackendError, UnknownNameError, UsageError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.qparams import QParams, check_qparams
from edgeyolo.spec.target import Precision, Target
from edgeyolo.spec.tuning import Choice


class Session(Protocol):
    """An opened artefact."""

    def run(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """(B, 3, H, W) float32 -> one (B, C, h, w) float32 array per raw head map, map_0 first.

        Raises:
            BackendError: another shape or type than the artefact takes, or the engine failed.
        """

    def close(self) -> None:
        """Give the engine's memory back; the session cannot run afterwards."""


class Engine(Protocol):
    """What a module of this folder offers; arguments as in the functions below."""

    def probe(self, target: Target) -> list[str]:
        """Problems in words."""

    def build(
        self, onnx_path: Path, qparams: QParams | None, target: Target, out: Path, *, precision: Precision
    ) -> Artefact:
        """Write the artefact's files into the folder `out`."""

    def open_artefact(
        self, folder: Path, artefact: Artefact, *, output_count: int, image_hw: tuple[int, int], threads: int = 0
    ) -> Session:
        """Load the artefact."""


def list_engines() -> list[str]:
    """Names of the engines known, installed or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def probe(target: Target) -> list[str]:
    """What this machine lacks to build for `target`, and how to get it; empty when nothing is missing.

    Raises:
        UnknownNameError: the target names an engine that does not exist.
    """
    return _engine(target.engine).probe(target)


def build(onnx_path: Path, qparams: QParams | None, target: Target, out: Path, *, precision: Precision) -> Artefact:
    """Make from `model.onnx` what the target's engine runs.

    Args:
        onnx_path: float model, input "images", outputs "map_0" ...
        qparams: scales that belong to that very file; needed for int8, not used otherwise.
        out: folder that receives the artefact's files.
        precision: of the layers that are not kept float; one that the target allows.

    Raises:
        UnknownNameError: no such engine. UsageError: a precision that the target or the input does not allow.
        MissingPackageError: the engine or its converter is not installed.
        BackendError: qparams of another model, or a graph that the engine cannot run.
    """
    engine = _engine(target.engine)
    if precision not in target.precisions:
        raise UsageError(
            f"precision {precision} is not one of this target's", hint=f"Choose from: {', '.join(target.precisions)}"
        )
    if precision == "int8":
        _check_scales(onnx_path, qparams)
    out.mkdir(parents=True, exist_ok=True)
    return engine.build(onnx_path, qparams if precision == "int8" else None, target, out, precision=precision)


def open_artefact(
    folder: Path, artefact: Artefact, *, output_count: int, image_hw: tuple[int, int], threads: int = 0
) -> Session:
    """Load an artefact from the folder its files are in.

    Args:
        output_count: number of raw head maps.
        image_hw: input height and width, pixels.
        threads: 0 for the engine's own default.

    Raises:
        UnknownNameError: no such engine. MissingPackageError: it is not installed.
        BackendError: files that are missing, broken or of another model, or options the engine does not have.
    """
    return _engine(artefact.engine).open_artefact(
        folder, artefact, output_count=output_count, image_hw=image_hw, threads=threads
    )


def list_needed_features(artefact: Artefact, target: Target) -> tuple[str, ...]:
    """Processor features without which `artefact` gives wrong results on boards like `target`, as Linux names them.

    An engine says so with a function of the same name; one that has none needs nothing but what its package needs.
    """
    needed = getattr(_engine(artefact.engine), "list_needed_features", None)
    return tuple(needed(artefact, target)) if needed else ()


def list_tuning_choices(folder: Path, artefact: Artefact) -> list[Choice]:
    """Ways to run `artefact` on this device that may be faster than how it was deployed, most promising first.

    An engine offers them with a function of the same name; one that chooses its kernels itself has none.

    Raises:
        BackendError: files that are missing or broken.
    """
    choices = getattr(_engine(artefact.engine), "list_tuning_choices", None)
    return list(choices(folder, artefact)) if choices else []


def cpu_package(engine: str) -> str:
    """The vendor package whose code computes on the processor, an engine's `CPU_PACKAGE`; "" where a GPU computes.

    Raises:
        UnknownNameError: no such engine.
    """
    return str(getattr(_engine(engine), "CPU_PACKAGE", ""))


def _engine(name: str) -> Engine:
    if name not in list_engines():
        raise UnknownNameError("engine", name, list_engines())
    return cast(Engine, importlib.import_module(f"{__name__}.{name}"))


def _check_scales(onnx_path: Path, qparams: QParams | None) -> None:
    if qparams is None:
        raise UsageError("int8 needs scales", where=onnx_path, hint="Quantize the model first: edgeyolo quantize")
    check_qparams(qparams)
    if qparams.onnx_sha256 != sha256_of(onnx_path):
        raise BackendError(
            "the scales were made for another model.onnx",
            where=onnx_path,
            hint="Use model.onnx and qparams.json of one and the same `edgeyolo quantize`",
        )
