"""`build`: a bundle -> what its engine builds on this machine, kept for every later start."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from edgeyolo.spec.progress import SILENT, Progress


@dataclass(frozen=True)
class BuildResult:
    """What a bundle costs before its first picture.

    Attributes:
        made: files that were built now; none where they were there already, or where the engine builds none.
        builds: whether the engine keeps anything that it has built on this machine.
        open_s: from the bundle to a detector, in seconds, with the build.
        first_ms: of the first picture, milliseconds.
    """

    engine: str
    made: tuple[Path, ...]
    builds: bool
    open_s: float
    first_ms: float


def build(bundle: Path, *, progress: Progress = SILENT) -> BuildResult:
    """Do before the first start what an engine otherwise does in it, and run one grey picture.

    Again it takes what is there. Run it on the machine that runs the bundle.

    Raises:
        BundleError, MissingPackageError, EngineCrashError, BackendError: as `Detector.load`.
    """
    import numpy as np

    from edgeyolo.backends import load_engine
    from edgeyolo.bundle import read_manifest
    from edgeyolo.runtime.detector import Detector

    engine = load_engine(read_manifest(bundle).artefact.engine)
    before = set(engine.list_built())
    started = time.perf_counter()
    with Detector.load(bundle, progress=progress) as detector:
        opened = time.perf_counter()
        detector.detect(np.full((*detector.spec.input.image_hw, 3), 114, np.uint8))
        first_ms = detector.timing.total_ms
    after = engine.list_built()
    made = tuple(path for path in after if path not in before)
    return BuildResult(engine.name, made, bool(after), opened - started, first_ms)
