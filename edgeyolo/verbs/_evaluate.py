"""`evaluate`: a bundle or a checkpoint -> mAP, of boxes or of joints."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeyolo.spec.detecting import Nms
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.figure import SIMULATED_MARK
from edgeyolo.spec.machine import is_first_process
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import ModelRecord, ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.target import Precision, needs_scales
from edgeyolo.spec.transfer import DEFAULT_MATCH, Match, ScoreTransfer
from edgeyolo.verbs._evaluate_poses import evaluate_in_boxes
from edgeyolo.verbs._splits import open_measured
from edgeyolo.verbs._thresholds import Wanted, find_thresholds

if TYPE_CHECKING:
    from edgeyolo.backends import Session
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.spec.detections import Detections


def evaluate(
    source: Path,
    data: Path,
    *,
    split: str | None = None,
    threads: int = 0,
    nms: Nms | None = None,
    boxes: Path | None = None,
    record: bool = False,
    reference: Path | None = None,
    score_threshold: float | None = None,
    match: Match | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Score:
    """COCO mAP, of boxes or joints, of a bundle, of a checkpoint, or of a folder with a model.onnx, on one split.

    The processes that `torchrun` starts share the pictures of a checkpoint; all of them get the score.

    Args:
        split: None for the validation split.
        nms: how several boxes of one object become one; None for the bundle's own way.
        record: write the score into the bundle's manifest.
        threads, boxes, reference, score_threshold, match: see `EvaluateOptions`.
        device: processor that computes a checkpoint: cpu, cuda or cuda:N; auto is CUDA where there is one.

    Raises:
        DataError, CheckpointError, BundleError: what is given cannot be read. MissingPackageError, EngineCrashError,
        BackendError: the bundle cannot be run on this computer. UsageError: options that do not go together.
        TrainingError, StoppedError: another process has failed, or is lost.
    """
    dataset = open_measured(data, split, model_of(source))
    if boxes is not None:
        return _evaluate_in_boxes(source, boxes, dataset, threads, record, progress)
    if not _is_bundle(source):
        return _evaluate_model(source, dataset, device, nms, progress)

    from edgeyolo.bundle import for_this_device, open_bundle, rewrite_manifest
    from edgeyolo.runtime.processor import open_session

    with open_bundle(source) as bundle, contextlib.ExitStack() as closing:
        manifest = for_this_device(bundle.manifest)
        if record:
            _check_nms(nms, manifest.nms, where=source)
        wanted = _wanted(manifest, reference, score_threshold, match, record=record, where=source)
        session = open_session(bundle.folder, manifest, threads=threads, progress=progress)
        closing.callback(session.close)
        measured = (session, manifest.artefact, manifest.model, dataset)
        if wanted is None:
            score = measure_artefact(*measured, nms=nms or manifest.nms, progress=progress)
        else:
            score, seen = measure_and_see(*measured, nms=manifest.nms, progress=progress)
    if record and is_first_process():
        told = with_score(bundle.manifest, score, is_tuned=manifest is bundle.manifest)
        if wanted is not None:
            transfer = find_thresholds(wanted, manifest, score.artefact, seen, dataset, progress)
            told = msgspec.structs.replace(told, transfer=transfer, score_threshold=wanted.score_threshold)
        rewrite_manifest(source, told)
    return score


def _evaluate_model(source: Path, dataset: Dataset, device: str, nms: Nms | None, progress: Progress) -> Score:
    """Of what is not a bundle yet."""
    if (source / "model.onnx").is_file():
        return _evaluate_graph(source, dataset, nms, progress)
    return _evaluate_checkpoint(source, dataset, device, nms, progress)


def _evaluate_graph(folder: Path, dataset: Dataset, nms: Nms | None, progress: Progress) -> Score:
    """Of a folder that `import` or `quantize` wrote: as ONNX Runtime computes it."""
    from edgeyolo import backends
    from edgeyolo.spec.qparams import load_qparams
    from edgeyolo.spec.strict import load_json
    from edgeyolo.spec.target import load_target

    spec = load_json(folder / "model.json", ModelRecord).model
    path = folder / "qparams.json"
    qparams = load_qparams(path) if path.is_file() else None
    precision: Precision = "fp32" if qparams is None else "int8"
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work, contextlib.ExitStack() as closing:
        board = load_target("host-onnx")
        artefact = backends.build(folder / "model.onnx", spec, qparams, board, Path(work), precision=precision)
        session = backends.open_artefact(Path(work), artefact, spec)
        closing.callback(session.close)
        return measure_artefact(session, artefact, spec, dataset, nms=nms, progress=progress)


def model_of(source: Path) -> ModelSpec:
    """What a bundle, a folder with a model.onnx or a checkpoint says of its network.

    Raises:
        BundleError, CheckpointError, FormatError: it cannot be read.
    """
    from edgeyolo.bundle import read_manifest
    from edgeyolo.spec.strict import load_json

    if _is_bundle(source):
        return read_manifest(source).model
    if (source / "model.onnx").is_file():
        return load_json(source / "model.json", ModelRecord).model
    from edgeyolo.training.checkpoint import checkpoint_path, read_record

    return read_record(checkpoint_path(source)).model


def transfer_of(source: Path) -> ScoreTransfer | None:
    """What a bundle says of thresholds of its float model; None for a bundle that does not, and for a checkpoint."""
    from edgeyolo.bundle import open_bundle

    if not _is_bundle(source):
        return None
    with open_bundle(source) as bundle:
        return bundle.manifest.transfer


def _is_bundle(source: Path) -> bool:
    return source.suffix == ".eyb" or (source / "manifest.json").is_file()


def _evaluate_in_boxes(
    source: Path, boxes: Path, dataset: Dataset, threads: int, record: bool, progress: Progress
) -> Score:
    """Of a bundle that finds joints, in a detector's boxes; that score is another bundle's too, and is not recorded."""
    from edgeyolo.bundle import read_manifest

    if not _is_bundle(source) or record:
        what = "the score would be of two bundles" if record else "is no bundle"
        raise UsageError(what, where=source, hint="Leave out --record" if record else "Deploy it first")
    name = artefact_name(read_manifest(source).artefact)
    return evaluate_in_boxes(source, boxes, dataset, name, threads=threads, progress=progress)


def _check_nms(nms: Nms | None, own: Nms, *, where: Path) -> None:
    """Raise UsageError for a way that is not the bundle's own, of which scores are not recorded."""
    if nms not in (None, own):
        hint = f"Leave out --record, or deploy it with --nms {nms}"
        raise UsageError(f"it detects with nms {own}, and the score would be of {nms}", where=where, hint=hint)


def _wanted(
    manifest: Manifest,
    reference: Path | None,
    score_threshold: float | None,
    match: Match | None,
    *,
    record: bool,
    where: Path,
) -> Wanted | None:
    """Which thresholds are transferred, None for none.

    Raises:
        UsageError: they are not to be recorded, or belong to no float model.
    """
    if reference is None:
        if score_threshold is not None or match is not None:
            raise UsageError("score_threshold and match need the float model", hint="Give its --reference")
        return None
    if not record or not needs_scales(manifest.artefact.precision):
        what = "is not int8" if record else "is only measured, and thresholds have nowhere to go"
        raise UsageError(what, where=where, hint="Leave out --reference" if record else "Give --record too")
    before = manifest.transfer
    return Wanted(
        reference,
        manifest.score_threshold if score_threshold is None else score_threshold,
        match or (before.match if before else DEFAULT_MATCH),
    )


def _evaluate_checkpoint(
    source: Path, dataset: Dataset, device_name: str, nms: Nms | None, progress: Progress
) -> Score:
    from edgeyolo.nn.fold import fold_model
    from edgeyolo.training.checkpoint import load_checkpoint
    from edgeyolo.training.device import choose_device
    from edgeyolo.training.distributed import find_world, joined, noticing_loss, own_device
    from edgeyolo.training.scoring import score_together
    from edgeyolo.training.torch_session import open_torch_session

    world = find_world()
    device = choose_device(own_device(device_name, world))
    with joined(world, device), noticing_loss(world):
        loaded = world.each(lambda: load_checkpoint(source))
        return score_together(
            open_torch_session(fold_model(loaded.model), device),
            loaded.record.model,
            dataset,
            world,
            artefact="float torch",
            nms=nms,
            progress=progress if world.is_first else SILENT,
        )


def artefact_name(artefact: Artefact) -> str:
    """How a score calls an artefact, such as "ncnn int8"; one that a simulator runs here is called so."""
    from edgeyolo.backends import load_engine

    mark = SIMULATED_MARK if load_engine(artefact.engine).is_simulated() else ""
    return f"{artefact.engine} {artefact.precision}{mark}"


def measure_artefact(
    session: Session,
    artefact: Artefact,
    spec: ModelSpec,
    dataset: Dataset,
    *,
    nms: Nms | None = None,
    progress: Progress = SILENT,
) -> Score:
    """COCO mAP of an open artefact, which says whether it was simulated; errors as `measure_session`."""
    from edgeyolo.evaluation.measure import measure_session

    score = measure_session(session, spec, dataset, artefact=artefact_name(artefact), nms=nms, progress=progress)
    return _marked(score, artefact)


def measure_and_see(
    session: Session,
    artefact: Artefact,
    spec: ModelSpec,
    dataset: Dataset,
    *,
    nms: Nms | None = None,
    progress: Progress = SILENT,
) -> tuple[Score, dict[int, Detections]]:
    """`measure_artefact`, and what a user would see in each picture, by its index; the network runs once."""
    from edgeyolo.evaluation.coco_map import score_detections
    from edgeyolo.evaluation.measure import detect_twice

    found, seen = detect_twice(session, spec, dataset, nms=nms, progress=progress)
    return _marked(score_detections(found, dataset, artefact=artefact_name(artefact)), artefact), seen


def _marked(score: Score, artefact: Artefact) -> Score:
    """The score, called simulated where a simulator runs the artefact here."""
    from edgeyolo.backends import load_engine

    is_simulated = load_engine(artefact.engine).is_simulated()
    return msgspec.structs.replace(score, kind="simulated") if is_simulated else score


def with_score(manifest: Manifest, score: Score, *, is_tuned: bool = True) -> Manifest:
    """The manifest with `score` in the place of an older one of the same artefact and split.

    Args:
        is_tuned: False for a score of the artefact as it was before the tuning that the manifest has.
    """
    key = (score.artefact, score.data, score.split)

    def added(scores: tuple[Score, ...]) -> tuple[Score, ...]:
        return (*(s for s in scores if (s.artefact, s.data, s.split) != key), score)

    if is_tuned or manifest.tuning is None:
        return msgspec.structs.replace(manifest, scores=added(manifest.scores))
    tuning = msgspec.structs.replace(manifest.tuning, default_scores=added(manifest.tuning.default_scores))
    return msgspec.structs.replace(manifest, tuning=tuning)
