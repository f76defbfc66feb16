"""`deploy`: model.onnx + qparams.json -> one bundle for one board."""

from __future__ import annotations

import contextlib
import datetime
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec

from edgeyolo.spec.deploying import DeployOptions
from edgeyolo.spec.detecting import DEFAULT_NMS, DEFAULT_SCORE_THRESHOLD, Nms
from edgeyolo.spec.errors import BackendError, DataError, GateError, MissingPackageError, UnknownNameError, UsageError
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import GraphDecode, ModelRecord, ModelSpec
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of, tool_versions
from edgeyolo.spec.qparams import QParams, load_qparams
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.sizes import batch_of, image_hw_of, image_size_of
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Precision, Target, load_target, needs_scales, target_name
from edgeyolo.spec.transfer import DEFAULT_MATCH, Match
from edgeyolo.verbs._evaluate import measure_and_see, measure_artefact, with_score
from edgeyolo.verbs._splits import open_measured
from edgeyolo.verbs._thresholds import Wanted, find_thresholds

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset

logger = logging.getLogger(__name__)

_RANGE_PICTURES = 32  # on which half precision must hold all values


@dataclass(frozen=True)
class DeployResult:
    """What `deploy` wrote, and what its engine has to say of it."""

    bundle: Path
    manifest: Manifest
    notes: tuple[str, ...] = ()


def deploy(
    source: Path,
    target: str,
    out: Path,
    *,
    image_size: int | str | None = None,
    batch: int | str = 1,
    precision: str | None = None,
    nms: Nms = DEFAULT_NMS,
    data: Path | None = None,
    split: str | None = None,
    score_threshold: float = DEFAULT_SCORE_THRESHOLD,
    match: Match = DEFAULT_MATCH,
    reference: Path | None = None,
    progress: Progress = SILENT,
) -> DeployResult:
    """Build one bundle for one board from a folder that `quantize` wrote, or a float one from a checkpoint.

    For a target that is another program, `out` becomes a folder of what that program reads, with a manifest beside it.

    Args:
        target: name in `targets/`, or a path to a `.toml`.
        data: also measure the bundle on `split` of this data set, and record the score in its manifest, and, for a
            board that computes in half precision, check on its pictures that this holds all values; where this
            computer cannot run what the board will, the bundle is written all the same, and a warning says so. Of an
            int8 bundle, also find what stands for score thresholds of the float model.
        image_size, batch, precision, nms, score_threshold, match, reference: see `DeployOptions`.

    Raises:
        UnknownNameError: no such target. UsageError: a precision or size that target or source does not have.
        MissingPackageError: the engine is not installed. BackendError, OutputError: as their names say.
    """
    from edgeyolo import backends
    from edgeyolo.bundle import write_bundle, write_folder

    check_settings(
        DeployOptions(nms=nms, image_size=image_size, batch=batch, score_threshold=score_threshold, match=match)
    )
    wanted, target = target, backends.choose_target(target)
    board = load_target(target)
    with model_folder(source, image_size) as folder, tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        progress.step("deploy", 0, 3, "reading the model")
        record = with_batch(load_json(folder / "model.json", ModelRecord), batch)
        check_onnx(folder, record)
        dataset = open_measured(data, split, record.model) if data is not None else None
        qparams = load_qparams(folder / "qparams.json") if (folder / "qparams.json").exists() else None
        chosen = choose_precision(board, precision, qparams, where=source)
        _check_half_range(board, chosen, folder / "model.onnx", record.model, dataset)
        progress.step("deploy", 1, 3, f"building for {board.title}")
        built, scales = Path(work), qparams if needs_scales(chosen) else None
        artefact, record, notes = _build(folder, record, scales, board, built, chosen, progress)
        manifest = make_manifest(folder, record, qparams, board, target, artefact, nms)
        scores = Wanted(reference or folder, score_threshold, match)
        manifest = measured_here(built, manifest, dataset, scores, progress)
        progress.step("deploy", 2, 3, "writing the bundle")
        manifest = (write_folder if board.program else write_bundle)(out, manifest, built)
        progress.step("deploy", 3, 3, str(out))
    return DeployResult(out, manifest, (*_choice_note(wanted, target), *notes))


def _build(
    folder: Path,
    record: ModelRecord,
    qparams: QParams | None,
    board: Target,
    work: Path,
    precision: Precision,
    progress: Progress,
) -> tuple[Artefact, ModelRecord, tuple[str, ...]]:
    """The artefact, the record with what it takes and gives, and what is to be said of it."""
    from edgeyolo import backends, handoffs

    spec = record.model
    if board.program:
        if spec.input.batch != (1, 1):
            raise UsageError(f"{board.program} is given its own batch", hint="Leave out --batch")
        given = handoffs.hand_off(folder / "model.onnx", spec, qparams, board, work, precision=precision)
        return given.artefact, msgspec.structs.replace(record, model=given.spec), given.steps
    spec = with_input(spec, board)
    artefact = backends.build(folder / "model.onnx", spec, qparams, board, work, precision=precision, progress=progress)
    notes = backends.load_engine(artefact.engine).build_notes(work, artefact)
    return artefact, msgspec.structs.replace(record, model=deployed_spec(spec, artefact)), tuple(notes)


def check_licence(source: Path) -> None:
    """See that what `deploy` would build may be shipped without its source.

    Args:
        source: as for `deploy`.

    Raises:
        GateError: its weights are, or began as, published ones under a licence that asks for more.
    """
    if (source / "model.json").is_file():
        origin = load_json(source / "model.json", ModelRecord).model.origin
    else:
        from edgeyolo.training.checkpoint import checkpoint_path, read_record

        origin = read_record(checkpoint_path(source)).model.origin
    if origin is not None and not origin.is_permissive:
        raise GateError(
            f"its weights are, or began as, {origin.file} of {origin.source}, under {origin.licence}",
            where=source,
            hint="Train from random weights, or from ones under a permissive licence",
        )


def _choice_note(wanted: str, target: str) -> list[str]:
    if wanted == target:
        return []
    return [f"{wanted} is {target} on this computer: the fastest of the engines that are installed"]


def _check_half_range(
    board: Target, precision: Precision, onnx_path: Path, spec: ModelSpec, dataset: Dataset | None
) -> None:
    """See that half precision holds the values, where the board computes in it and there are pictures to see it on."""
    from edgeyolo.backends import load_engine
    from edgeyolo.evaluation.half_range import check_half_range

    if dataset is None or not load_engine(board.engine).is_half(board, precision):
        return
    images = (dataset[index].image for index in range(min(_RANGE_PICTURES, len(dataset))))
    try:
        check_half_range(onnx_path, images, spec.input)
    except MissingPackageError as error:
        logger.warning("the range of half precision is not checked: %s", error)


@contextlib.contextmanager
def model_folder(source: Path, image_size: int | str | None = None) -> Iterator[Path]:
    """`source` itself where it holds a `model.onnx`; else a temporary folder with a float export of a checkpoint.

    Raises:
        UsageError: another size than the graph of `source` has, or one that the model's strides do not divide.
    """
    if (source / "model.onnx").is_file():
        image_hw = load_json(source / "model.json", ModelRecord).model.input.image_hw
        if image_size is not None and image_hw_of(image_size) != image_hw:
            raise UsageError(
                f"its graph, and its scales, are for {image_size_of(image_hw)} pixels, not for {image_size}",
                where=source,
                hint=f"Quantize the checkpoint again: edgeyolo quantize ... --image-size {image_size}",
            )
        yield source
        return
    from edgeyolo.export import export_model
    from edgeyolo.nn.fold import fold_model
    from edgeyolo.training.checkpoint import load_checkpoint

    loaded = load_checkpoint(source).at_size(image_size)
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        folder = Path(work) / "float"
        scores = (loaded.record.score,) if loaded.record.score else ()
        export_model(
            fold_model(loaded.model), loaded.record.model, folder, checkpoint_sha256=loaded.sha256, scores=scores
        )
        yield folder


def with_batch(record: ModelRecord, batch: int | str) -> ModelRecord:
    """The record of a model whose engine is to take so many pictures at once, a `BatchSize`."""
    spec = record.model
    picture = msgspec.structs.replace(spec.input, batch=batch_of(batch))
    return msgspec.structs.replace(record, model=msgspec.structs.replace(spec, input=picture))


def check_onnx(folder: Path, record: ModelRecord) -> None:
    """Raise DataError where `model.onnx` is not the file that `model.json` was written for."""
    if sha256_of(folder / "model.onnx") != record.onnx_sha256:
        raise DataError("model.onnx is not the one that model.json describes", where=folder, hint="Quantize again")


def choose_precision(target: Target, wanted: str | None, qparams: QParams | None, *, where: object) -> Precision:
    """The precision to build: `wanted`, or the target's first that is possible.

    Raises:
        UsageError: not one of the target's, or int8 without scales.
    """
    if wanted is None:
        possible = [p for p in target.precisions if qparams is not None or not needs_scales(p)]
        if not possible:
            raise UsageError(
                f"the target runs only {' and '.join(target.precisions)}, and the source has no scales",
                where=where,
                hint="Run quantize",
            )
        return possible[0]
    for precision in get_args(Precision):
        if precision == wanted and wanted in target.precisions:
            if needs_scales(wanted) and qparams is None:
                raise UsageError(f"{wanted} needs qparams.json", where=where, hint="Run `edgeyolo quantize` first")
            return precision  # type: ignore[no-any-return]
    raise UnknownNameError("precision of this target", wanted, target.precisions)


def with_input(spec: ModelSpec, board: Target) -> ModelSpec:
    """The model as its graph is to take pictures on that board.

    Raises:
        UsageError: frames are letterboxed in the graph only where it takes bytes.
    """
    if board.frame_hw and board.input != "uint8":
        raise UsageError("frame_hw without bytes as input", where=board.title, hint="Write input = 'uint8' beside it")
    picture = msgspec.structs.replace(spec.input, pixels=board.input, frame_hw=board.frame_hw)
    return msgspec.structs.replace(spec, input=picture)


def deployed_spec(spec: ModelSpec, artefact: Artefact) -> ModelSpec:
    """What the runtime reads from the artefact: the model's own spec, or boxes where its graph decodes them."""
    if not artefact.graph_candidates:
        return spec
    decode = GraphDecode(strides=spec.decode.strides, candidates=artefact.graph_candidates)
    return msgspec.structs.replace(spec, decode=decode)


def make_manifest(
    folder: Path,
    record: ModelRecord,
    qparams: QParams | None,
    board: Target,
    target: str,
    artefact: Artefact,
    nms: Nms,
) -> Manifest:
    """The manifest of a bundle, without the digests of its files; the record's model is what the artefact computes."""
    from edgeyolo.backends import list_packages, load_engine

    source = {"model.onnx": record.onnx_sha256, "checkpoint": record.checkpoint_sha256}
    if qparams is not None:
        source |= {"qparams.json": sha256_of(folder / "qparams.json"), "recipe": qparams.calibration.recipe}
    return Manifest(
        model=record.model,
        target=Path(target_name(target)).stem,
        machine=board.machine,
        cpu_features=load_engine(artefact.engine).needed_features(artefact, board),
        artefact=artefact,
        threads=board.threads,
        nms=nms,
        receptive_fields=record.receptive_fields,
        sha256={},
        scores=record.scores,
        source=source,
        tools=tool_versions(list_packages()),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def measured_here(
    folder: Path, manifest: Manifest, dataset: Dataset | None, wanted: Wanted, progress: Progress
) -> Manifest:
    """The manifest with a score of the artefact in `folder`, and what stands for thresholds of its float model.

    Without both where there is no `dataset` or, with a warning, where the artefact cannot run here.
    """
    from edgeyolo.evaluation.tasks import task_of
    from edgeyolo.runtime.processor import open_session

    manifest = msgspec.structs.replace(manifest, score_threshold=wanted.score_threshold)
    if dataset is None:
        return manifest
    try:
        session = open_session(folder, manifest, progress=progress)
    except (MissingPackageError, BackendError) as error:
        logger.warning("the bundle is written and was not measured here: %s", error)
        return manifest
    measured = (session, manifest.artefact, manifest.model, dataset)
    with contextlib.closing(session):
        if not needs_scales(manifest.artefact.precision) or not task_of(manifest.model.decode).finds_boxes:
            return with_score(manifest, measure_artefact(*measured, nms=manifest.nms, progress=progress))
        score, seen = measure_and_see(*measured, nms=manifest.nms, progress=progress)
    manifest = with_score(manifest, score)
    try:
        transfer = find_thresholds(wanted, manifest, score.artefact, seen, dataset, progress)
    except MissingPackageError as error:
        logger.warning("score thresholds stay those of the float model: %s", error)
        return manifest
    return msgspec.structs.replace(manifest, transfer=transfer)
