"""Whether this computer's processor can run a bundle, found out before the engine is imported.

What the manifest asks for is compared with the processor, and an engine that has not run here before is tried once in a
process of its own, so that a message comes instead of "Illegal instruction".
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import BackendError, EngineCrashError
from edgeyolo.spec.machine import list_cpu_features, machine_here, processor_name
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.progress import SILENT, Progress

if TYPE_CHECKING:
    from edgeyolo.backends import Session

logger = logging.getLogger(__name__)

PROBE_LIMIT_S = 120
# A process that an exception of the processor ends has a negative code on POSIX, an NTSTATUS error on Windows.
_NTSTATUS_ERROR = 0xC0000000


def open_session(folder: Path, manifest: Manifest, *, threads: int = 0, progress: Progress = SILENT) -> Session:
    """Open the artefact of a bundle, once it is known that this computer can run it.

    Args:
        folder: the bundle's files.
        threads: engine threads, 0 for the number in the manifest.

    Raises:
        MissingPackageError: its engine is not installed. EngineCrashError, BackendError: as `check_engine` and
            `check_processor`, or the engine cannot open the artefact.
    """
    from edgeyolo.backends import open_artefact

    check_processor(manifest)
    check_engine(folder, manifest)
    threads = threads or manifest.threads
    return open_artefact(folder, manifest.artefact, manifest.model, threads=threads, progress=progress)


def check_processor(manifest: Manifest) -> None:
    """Compare what the manifest asks for with this processor; log where a bundle runs on another architecture.

    What is not known of this processor is not held against it: bundles are portable, and engines choose their code at
    run time.

    Raises:
        BackendError: the processor lacks what right results need; names it, the processor and targets that would do.
    """
    here = machine_here()
    if manifest.machine and manifest.machine != here:
        logger.warning(
            "this bundle is for %s (%s), and this computer is %s: its boxes are good for a check, its times are not",
            manifest.target,
            manifest.machine,
            here,
        )
        return
    features = list_cpu_features()
    missing = [name for name in manifest.cpu_features if name not in features]
    if features and missing:
        fitting = _list_fitting_targets(manifest.artefact.engine, here, features)
        deploy = (
            f"Deploy for this computer: --target {' or '.join(fitting)}" if fitting else "Deploy for another target"
        )
        raise BackendError(
            f"the bundle, built for {manifest.target}, needs a processor with {', '.join(missing)}, and "
            f"{processor_name()} has none",
            hint=deploy,
        )


def check_engine(folder: Path, manifest: Manifest) -> None:
    """Run the bundle once in a child process, unless this engine's package has run on this processor before.

    An engine whose package was compiled for a newer processor dies at its import or in its first kernel, and would take
    this process along. Nothing is checked where there is no place to remember the answer, or no way to ask.

    Args:
        folder: the bundle's files.

    Raises:
        EngineCrashError: the child was killed by the processor or the system.
    """
    from edgeyolo.backends import load_engine

    package = load_engine(manifest.artefact.engine).cpu_package
    witness = _witness_file(package) if package and package not in sys.modules else None
    if witness is None or witness.exists():
        return
    import subprocess

    try:
        witness.parent.mkdir(parents=True, exist_ok=True)
        code = _run_child(folder, manifest)
        if code == 0:
            witness.write_text(f"{package}\n")
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("%s was not tried beforehand: %s", package, error)
        return
    if code < 0 or code >= _NTSTATUS_ERROR:
        raise EngineCrashError(
            f"'{package}' dies on this computer ({_describe_death(code)}; {processor_name()})",
            hint=f"It was perhaps compiled for another processor. Install it anew: "
            f"pip install --force-reinstall --no-cache-dir {package}, or build it from source on this computer",
        )


def main(arguments: list[str]) -> None:
    """What the child does: open the artefact and run it on one grey picture."""
    import numpy as np

    from edgeyolo.backends import open_artefact

    folder, artefact, model = arguments
    spec = msgspec.json.decode(model, type=ModelSpec)
    session = open_artefact(Path(folder), msgspec.json.decode(artefact, type=Artefact), spec, threads=1)
    session.run(np.zeros((1, *spec.input.shape), spec.input.pixels))
    session.close()


def _run_child(folder: Path, manifest: Manifest) -> int:
    """Start the child that runs `main`, and give its exit code."""
    import subprocess

    if not sys.executable:
        raise OSError("this Python does not know its own program")
    records = [msgspec.json.encode(part).decode() for part in (manifest.artefact, manifest.model)]
    place = f"import sys; sys.path[:] = {json.dumps(sys.path)}; from edgeyolo.runtime.processor import main; "
    command = [sys.executable, "-c", f"{place}main(sys.argv[1:])", str(folder), *records]
    quiet = subprocess.DEVNULL
    child = subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=PROBE_LIMIT_S, check=False)
    return child.returncode


def _witness_file(package: str) -> Path | None:
    """A file that exists if this very package has run on this processor; None where the package is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    origin = Path(found.origin)
    changed = [path.stat().st_mtime_ns for path in (origin, origin.parent)]  # another version changes both
    told = json.dumps([found.origin, changed, sys.version, processor_name(), sorted(list_cpu_features())])
    return cache_folder("engines") / f"{package}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _describe_death(code: int) -> str:
    """What an exit code says, such as "SIGILL, an instruction that its processor does not have"."""
    if code >= _NTSTATUS_ERROR:
        return f"exception 0x{code:08X}"
    import signal

    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}, an instruction that its processor does not have" if name == "SIGILL" else name


def _list_fitting_targets(engine: str, machine: str, features: frozenset[str]) -> list[str]:
    """Names of targets of this engine whose processor has no more than this one; those closest to it."""
    from edgeyolo.spec.target import list_targets, load_target

    boards = {name: load_target(name) for name in list_targets()}
    fitting = {
        name: len(board.cpu_features)
        for name, board in boards.items()
        if board.engine == engine and board.machine == machine and features.issuperset(board.cpu_features)
    }
    most = max(fitting.values(), default=0)
    return [name for name, count in fitting.items() if count == most]
