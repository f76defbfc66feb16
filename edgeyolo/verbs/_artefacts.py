"""Artefacts that are built to be measured, and not to be kept."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import Latency, ModelRecord, ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Precision, load_target, needs_scales
from edgeyolo.verbs._deploy import deployed_spec, with_input
from edgeyolo.verbs._evaluate import artefact_name, measure_artefact

if TYPE_CHECKING:
    from edgeyolo.backends import Session
    from edgeyolo.data.dataset import Dataset

_TIMED, _WARM_UP = 20, 3  # calls of `detect`


@dataclass(frozen=True)
class Built:
    """An open artefact: what runs, what its maps mean, and the bytes of the files that ship."""

    session: Session
    artefact: Artefact
    spec: ModelSpec
    size_bytes: int

    @property
    def name(self) -> str:
        """How scores call it."""
        return artefact_name(self.artefact)


@contextlib.contextmanager
def open_built(folder: Path, target: str, precision: Precision) -> Iterator[Built]:
    """Build what `deploy` would for a target, open it here, and remove it afterwards.

    Args:
        folder: that `quantize` wrote.

    Raises:
        UnknownNameError: no such target. MissingPackageError, BackendError: as their names say.
    """
    from edgeyolo import backends

    record = load_json(folder / "model.json", ModelRecord)
    qparams = load_qparams(folder / "qparams.json") if needs_scales(precision) else None
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        out = Path(work)
        board = load_target(backends.choose_target(target))
        spec = with_input(record.model, board)
        artefact = backends.build(folder / "model.onnx", spec, qparams, board, out, precision=precision)
        spec = deployed_spec(spec, artefact)
        session = backends.open_artefact(out, artefact, spec)
        size = sum((out / name).stat().st_size for name in artefact.files.values())
        try:
            yield Built(session, artefact, spec, size)
        finally:
            session.close()


def measure_built(
    folder: Path, target: str, precision: Precision, dataset: Dataset, *, progress: Progress = SILENT
) -> Score:
    """The score of what `deploy` would build; errors as in `open_built`."""
    with open_built(folder, target, precision) as built:
        return measure_artefact(built.session, built.artefact, built.spec, dataset, progress=progress)


def time_session(session: Session, spec: ModelSpec, dataset: Dataset, *, device: str) -> Latency:
    """Time of what users call, `Detector.detect` with everyday thresholds, say, on a split, on this computer."""
    from edgeyolo.evaluation.tasks import task_of
    from edgeyolo.runtime.clock import Clock

    take_time, clock = task_of(spec.decode).make_timed(session, spec), Clock()
    indices = itertools.islice(itertools.cycle(range(len(dataset))), _WARM_UP + _TIMED)
    for call, index in enumerate(indices):
        timing = take_time(dataset[index].image)
        if call >= _WARM_UP:
            clock.add(timing)
    return clock.latency(device=device, threads=0)
