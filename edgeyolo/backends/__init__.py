"""In: model.onnx, its `ModelSpec`, qparams.json and a target. Out: an artefact, and a session that runs it on a board.

Verb: `build` on the host, `open_artefact` on the board; `probe` says what is missing for either.

An engine is one module or package of this folder with an `ENGINE`; `engine` says what that is. The folder is the
registry. Vendor packages are imported inside functions.
"""

from __future__ import annotations

from pathlib import Path

from edgeyolo.backends.engine import CpuSession, Engine, Finding, OwnEnvironment, Runnable, Session
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.guests import list_guests, load_guest
from edgeyolo.spec.machine import machine_here
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.packages import Package
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.qparams import QParams, check_qparams
from edgeyolo.spec.target import Precision, Target, load_target, needs_scales

__all__ = [
    "CpuSession",
    "Engine",
    "Finding",
    "OwnEnvironment",
    "Runnable",
    "Session",
    "build",
    "check_scales",
    "choose_target",
    "list_engines",
    "list_packages",
    "list_runnable",
    "load_engine",
    "open_artefact",
    "probe",
]


def list_engines() -> list[str]:
    """Names of the engines known, installed or not."""
    return list_guests(__name__, "engine")


def load_engine(name: str) -> Engine:
    """An engine by its name; its vendor's packages need not be installed.

    Raises:
        UnknownNameError: no such engine.
    """
    engine: Engine = load_guest(__name__, "engine", name)
    return engine


def list_packages() -> list[Package]:
    """The vendors' packages of all engines."""
    return [package for name in list_engines() for package in load_engine(name).packages]


def list_runnable() -> list[Runnable]:
    """Targets whose artefacts can be opened on this computer: of each engine the computer itself, then a board."""
    runnable = []
    for name in list_engines():
        engine = load_engine(name)
        for target, is_host in ((engine.host_target(), True), (engine.check_target(), False)):
            if target:
                problems = tuple(engine.probe(load_target(target)))
                runnable.append(Runnable(target, is_host, engine.is_simulated(), problems))
    return runnable


def choose_target(name: str) -> str:
    """The target that `name` stands for on this computer: the fastest engine's that is installed, or `name` itself.

    Raises:
        UnknownNameError: no such target. FormatError: its file is not valid.
    """
    for choice in load_target(name).first_of.get(machine_here(), ()):
        target = load_target(choice)
        if target.engine in list_engines() and not probe(target):
            return choice
    return name


def probe(target: Target) -> list[str]:
    """What this machine lacks to build for `target`, and how to get it; empty when nothing is missing.

    Raises:
        UnknownNameError: the target names an engine that does not exist.
    """
    return load_engine(target.engine).probe(target)


def build(
    onnx_path: Path,
    spec: ModelSpec,
    qparams: QParams | None,
    target: Target,
    out: Path,
    *,
    precision: Precision,
    progress: Progress = SILENT,
) -> Artefact:
    """Make from `model.onnx` what the target's engine runs.

    Args:
        onnx_path: float model, input "images", outputs "map_0" ...
        spec: of that model.
        qparams: scales that belong to that very file; needed for int8 and mixed, not used otherwise.
        out: folder that receives the artefact's files.
        precision: of the layers that are not kept float; one that the target allows.

    Raises:
        UnknownNameError: no such engine. UsageError: a precision that the target or the input does not allow.
        MissingPackageError: the engine or its converter is not installed.
        BackendError: qparams of another model, or a graph that the engine cannot run.
    """
    engine = load_engine(target.engine)
    if precision not in target.precisions:
        raise UsageError(
            f"precision {precision} is not one of this target's", hint=f"Choose from: {', '.join(target.precisions)}"
        )
    if spec.input.pixels != "float32" and not engine.takes_bytes:
        raise UsageError(
            f"{engine.name} takes floats, not the bytes of pictures",
            where=target.title,
            hint="Leave out input = 'uint8'",
        )
    if needs_scales(precision):
        check_scales(onnx_path, qparams)
    _check_operators(onnx_path, engine)
    out.mkdir(parents=True, exist_ok=True)
    scales = qparams if needs_scales(precision) else None
    return engine.build(onnx_path, spec, scales, target, out, precision=precision, progress=progress)


def open_artefact(
    folder: Path, artefact: Artefact, spec: ModelSpec, *, threads: int = 0, progress: Progress = SILENT
) -> Session:
    """Load an artefact from the folder its files are in.

    Args:
        spec: what the artefact computes: the manifest's.
        threads: 0 for the engine's own default.
        progress: hears of an engine that builds on this machine when it first loads, which takes minutes.

    Raises:
        UnknownNameError: no such engine. MissingPackageError: it is not installed.
        BackendError: files that are missing, broken or of another model, or options the engine does not have.
    """
    return load_engine(artefact.engine).open(folder, artefact, spec, threads=threads, progress=progress)


def _check_operators(onnx_path: Path, engine: Engine) -> None:
    """Raise BackendError where a graph has an operator that the engine has not."""
    if not engine.lacks:
        return
    graph = load_onnx(onnx_path).graph
    lacking = sorted({node.op_type for node in graph.node} & set(engine.lacks))
    if lacking:
        others = [name for name in list_engines() if not set(load_engine(name).lacks) & set(lacking)]
        raise BackendError(
            f"{engine.name} has no {' and no '.join(lacking)}, which this model needs",
            where=onnx_path,
            hint=f"Take a variant without (ppyolo-r50 for ppyolo-r50-dcn) or an engine with it: {', '.join(others)}",
        )


def check_scales(onnx_path: Path, qparams: QParams | None) -> None:
    """Raise UsageError where there are no scales, and BackendError where they are of another model."""
    if qparams is None:
        raise UsageError("int8 needs scales", where=onnx_path, hint="Quantize the model first: edgeyolo quantize")
    check_qparams(qparams)
    if qparams.onnx_sha256 != sha256_of(onnx_path):
        raise BackendError(
            "the scales were made for another model.onnx",
            where=onnx_path,
            hint="Use model.onnx and qparams.json of one and the same `edgeyolo quantize`",
        )
