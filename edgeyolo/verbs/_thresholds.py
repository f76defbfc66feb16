"""The float model that an artefact stands for, and what becomes of its score thresholds."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.model import ModelRecord, ModelSpec
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import load_target
from edgeyolo.spec.transfer import Match, ScoreTransfer

if TYPE_CHECKING:
    from edgeyolo.backends import Session
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.spec.detections import Detections

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """Which thresholds are transferred.

    Attributes:
        reference: the float model: a folder with `model.onnx`, a float bundle, or a checkpoint.
        score_threshold: of it, the user's.
        match: what is to stay as it is.
    """

    reference: Path
    score_threshold: float
    match: Match


def find_thresholds(
    wanted: Wanted, manifest: Manifest, name: str, seen: Mapping[int, Detections], dataset: Dataset, progress: Progress
) -> ScoreTransfer:
    """What stands for the float model's thresholds in an artefact.

    Args:
        manifest: of the artefact.
        name: how scores call it.
        seen: by it in each picture of `dataset`, as `evaluation.measure.detect_everyday` gives it.

    Raises:
        MissingPackageError, BackendError, BundleError, CheckpointError: the float model cannot be run.
    """
    from edgeyolo.evaluation.measure import detect_everyday

    with open_float_model(wanted.reference) as (session, spec):
        expected = detect_everyday(session, spec, dataset, nms=manifest.nms, progress=progress)
    return compare_scores(expected, seen, dataset, name, score_threshold=wanted.score_threshold, match=wanted.match)


def compare_scores(
    expected: Mapping[int, Detections],
    seen: Mapping[int, Detections],
    dataset: Dataset,
    name: str,
    *,
    score_threshold: float,
    match: Match,
) -> ScoreTransfer:
    """`find_transfer` of what a float model and an artefact have found in the pictures of a split."""
    from edgeyolo.evaluation.judged import judge_detections
    from edgeyolo.evaluation.transfer import find_transfer

    if not any(map(len, expected.values())):
        logger.warning(
            "%s, %s: the float model finds nothing, so thresholds stay as they are", dataset.name, dataset.split
        )
    return find_transfer(
        judge_detections(expected, dataset),
        judge_detections(seen, dataset),
        dataset.class_names,
        match=match,
        score_threshold=score_threshold,
        measured=(name, dataset.name, dataset.split),
    )


@contextlib.contextmanager
def open_float_model(source: Path) -> Iterator[tuple[Session, ModelSpec]]:
    """A model in float: a folder with `model.onnx`, a float bundle, or a checkpoint.

    Raises:
        MissingPackageError, BackendError, BundleError, CheckpointError: it cannot be run.
    """
    from edgeyolo.bundle import open_bundle
    from edgeyolo.runtime.processor import open_session

    with contextlib.ExitStack() as closing:
        if (source / "model.onnx").is_file():
            spec = load_json(source / "model.json", ModelRecord).model
            session = _open_onnx(source / "model.onnx", spec, closing)
        elif source.suffix == ".eyb" or (source / "manifest.json").is_file():
            bundle = closing.enter_context(open_bundle(source))
            spec = bundle.manifest.model
            session = open_session(bundle.folder, bundle.manifest, progress=SILENT)
        else:
            session, spec = _open_checkpoint(source)
        closing.callback(session.close)
        yield session, spec


def _open_onnx(path: Path, spec: ModelSpec, closing: contextlib.ExitStack) -> Session:
    """In the engine that computes a graph as it is written."""
    from edgeyolo import backends

    for name in backends.list_engines():
        engine = backends.load_engine(name)
        if engine.is_reference:
            work = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="edgeyolo-")))
            target = load_target(engine.host_target())
            artefact = backends.build(path, spec, None, target, work, precision="fp32")
            return backends.open_artefact(work, artefact, spec)
    install = "pip install 'edgeyolo[onnxruntime]'"
    raise MissingPackageError("onnxruntime", needed_for="thresholds of the float model", install=install)


def _open_checkpoint(source: Path) -> tuple[Session, ModelSpec]:
    from edgeyolo.nn.fold import fold_model
    from edgeyolo.training.checkpoint import load_checkpoint
    from edgeyolo.training.torch_session import TorchSession

    loaded = load_checkpoint(source)
    return TorchSession(fold_model(loaded.model)), loaded.record.model
