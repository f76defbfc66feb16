"""The public verbs: each puts rooms together, and is what the command of the same name calls."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edgeyolo.spec.errors import DataError, UnknownNameError, UsageError
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import GraphDecode, ModelRecord, ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of, tool_versions
from edgeyolo.spec.qparams import QParams, load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Precision, Target, load_target, target_name

if TYPE_CHECKING:
    from edgeyolo.training.config import TrainConfig
    from edgeyolo.training.loop import TrainResult


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` wrote: the folder, scores so far, and how many layers run in each precision."""

    folder: Path
    scores: tuple[Score, ...]
    layers: dict[str, int]


@dataclass(frozen=True)
class DeployResult:
    """What `deploy` wrote."""

    bundle: Path
    manifest: Manifest


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    weights: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train a detector on a data set's `train` split; see `edgeyolo.training.loop.train`.

    Args:
        data: a folder or file in a known format.
        out: folder for checkpoints, log and curves.
    """
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.training.loop import train as train_model

    return train_model(
        config,
        open_dataset(data, "train"),
        open_dataset(data, validation_split(data)),
        out,
        weights=weights,
        resume=resume,
        progress=progress,
    )


def quantize(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    recipe: str = "int8-mse",
    evaluate: bool = True,
    split: str | None = None,
    progress: Progress = SILENT,
) -> QuantizeResult:
    """Calibrate a trained model on training pictures and write `model.onnx`, `qparams.json` and `model.json` to `out`.

    Args:
        recipe: name in `calib/`, or a path to a `.toml`.
        evaluate: measure the float and the fake-quantized model.
        split: that they are measured on, None for the validation split.

    Raises:
        UnknownNameError: no such recipe, or it names a layer that does not exist.
        CheckpointError, DataError, QuantizationError, ExportError, OutputError: as their names say.
    """
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.evaluation.measure import check_classes, measure_session
    from edgeyolo.export import export_model
    from edgeyolo.nn.session import TorchSession
    from edgeyolo.quantization import quantize as quantize_model
    from edgeyolo.quantization.pictures import calibration_pictures
    from edgeyolo.spec.recipe import load_recipe
    from edgeyolo.training.checkpoint import load_checkpoint

    settings = load_recipe(recipe)
    source = load_checkpoint(checkpoint)
    spec = source.record.model
    train_data = open_dataset(data, "train")
    check_classes(spec, train_data)
    pictures, hashes = calibration_pictures(train_data, spec.input, count=settings.count, seed=settings.seed)
    quantized = quantize_model(
        source.model, pictures, settings, recipe_name=Path(recipe).stem, picture_hashes=hashes, progress=progress
    )
    scores: list[Score] = []
    if evaluate:
        dataset = open_dataset(data, split or validation_split(data))
        for artefact, module in (("float torch", quantized.float_deploy), ("fake-quant torch", quantized.fake_quant)):
            scores.append(measure_session(TorchSession(module), spec, dataset, artefact=artefact, progress=progress))
    export_model(quantized, spec, out, checkpoint_sha256=source.sha256, scores=tuple(scores))
    return QuantizeResult(out, tuple(scores), precision_counts(load_qparams(out / "qparams.json")))


def deploy(
    source: Path,
    target: str,
    out: Path,
    *,
    precision: str | None = None,
    data: Path | None = None,
    split: str | None = None,
    progress: Progress = SILENT,
) -> DeployResult:
    """Build one bundle for one board from a folder that `quantize` wrote, or a float one from a checkpoint.

    Args:
        target: name in `targets/`, or a path to a `.toml`.
        precision: one of the target's; None for its first that the source allows.
        data: also measure the bundle on `split` of this data set, and record the score in its manifest.

    Raises:
        UnknownNameError: no such target. UsageError: a precision that target or source does not have.
        MissingPackageError: the engine is not installed. BackendError, OutputError: as their names say.
    """
    import msgspec

    from edgeyolo import backends
    from edgeyolo.bundle import write_bundle

    board = load_target(target)
    with model_folder(source) as folder, tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        progress.step("deploy", 0, 3, "reading the model")
        record = load_json(folder / "model.json", ModelRecord)
        check_onnx(folder, record)
        qparams = load_qparams(folder / "qparams.json") if (folder / "qparams.json").exists() else None
        chosen = choose_precision(board, precision, qparams, where=source)
        progress.step("deploy", 1, 3, f"building for {board.title}")
        artefact = backends.build(
            folder / "model.onnx", qparams if chosen == "int8" else None, board, Path(work), precision=chosen
        )
        record = msgspec.structs.replace(record, model=deployed_spec(record.model, artefact))
        scores = record.scores
        if data is not None:
            score = _measure_artefact(
                Path(work), artefact, record.model, data, split or validation_split(data), progress
            )
            scores = (*scores, score)
        manifest = make_manifest(folder, record, qparams, board, target, artefact, scores)
        progress.step("deploy", 2, 3, "writing the bundle")
        manifest = write_bundle(out, manifest, Path(work))
        progress.step("deploy", 3, 3, str(out))
    return DeployResult(out, manifest)


def evaluate(
    source: Path,
    data: Path,
    *,
    split: str | None = None,
    threads: int = 0,
    record: bool = False,
    progress: Progress = SILENT,
) -> Score:
    """COCO mAP of a bundle, or of a checkpoint, on one split of a data set.

    Args:
        split: None for the validation split.
        threads: engine threads, 0 for the bundle's own number.
        record: write the score into the bundle's manifest.
    """
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.evaluation.measure import measure_session

    dataset = open_dataset(data, split or validation_split(data))
    if source.suffix != ".eyb" and not (source / "manifest.json").is_file():
        from edgeyolo.nn.fold import fold_model
        from edgeyolo.nn.session import TorchSession
        from edgeyolo.training.checkpoint import load_checkpoint

        loaded = load_checkpoint(source)
        folded = TorchSession(fold_model(loaded.model))
        return measure_session(folded, loaded.record.model, dataset, artefact="float torch", progress=progress)

    from edgeyolo.backends import open_artefact
    from edgeyolo.bundle import open_bundle, rewrite_manifest

    with open_bundle(source) as bundle:
        manifest = bundle.manifest
        session = open_artefact(
            bundle.folder,
            manifest.artefact,
            output_count=manifest.model.output_count,
            image_hw=manifest.model.input.image_hw,
            threads=threads or manifest.threads,
        )
        score = measure_session(
            session, manifest.model, dataset, artefact=artefact_name(manifest.artefact), progress=progress
        )
        session.close()
    if record:
        rewrite_manifest(source, with_score(manifest, score))
    return score


def validation_split(data: Path) -> str:
    """The split that scores are taken on: `val`, or `test` where there is none.

    Raises:
        DataError: the data set has neither.
    """
    from edgeyolo.data.dataset import list_splits

    splits = list_splits(data)
    for name in ("val", "test"):
        if name in splits:
            return name
    raise DataError(f"has no val split, only {', '.join(splits)}", where=data, hint="Set some pictures aside as val")


@contextlib.contextmanager
def model_folder(source: Path) -> Iterator[Path]:
    """`source` itself where it holds a `model.onnx`; else a temporary folder with a float export of a checkpoint."""
    if (source / "model.onnx").is_file():
        yield source
        return
    from edgeyolo.export import export_model
    from edgeyolo.nn.fold import fold_model
    from edgeyolo.training.checkpoint import load_checkpoint

    loaded = load_checkpoint(source)
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        folder = Path(work) / "float"
        scores = (loaded.record.score,) if loaded.record.score else ()
        export_model(
            fold_model(loaded.model), loaded.record.model, folder, checkpoint_sha256=loaded.sha256, scores=scores
        )
        yield folder


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
        possible = [p for p in target.precisions if p != "int8" or qparams is not None]
        if not possible:
            raise UsageError(
                "the target runs only int8, and the source has no scales", where=where, hint="Run quantize"
            )
        return possible[0]
    for precision in get_args(Precision):
        if precision == wanted and wanted in target.precisions:
            if wanted == "int8" and qparams is None:
                raise UsageError("int8 needs qparams.json", where=where, hint="Run `edgeyolo quantize` first")
            return precision  # type: ignore[no-any-return]
    raise UnknownNameError("precision of this target", wanted, target.precisions)


def deployed_spec(spec: ModelSpec, artefact: Artefact) -> ModelSpec:
    """What the runtime reads from the artefact: the model's own spec, or boxes where its graph decodes them."""
    import msgspec

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
    scores: tuple[Score, ...],
) -> Manifest:
    """The manifest of a bundle, without the digests of its files."""
    source = {"model.onnx": record.onnx_sha256, "checkpoint": record.checkpoint_sha256}
    if qparams is not None:
        source |= {"qparams.json": sha256_of(folder / "qparams.json"), "recipe": qparams.calibration.recipe}
    return Manifest(
        model=record.model,
        target=Path(target_name(target)).stem,
        artefact=artefact,
        threads=board.threads,
        sha256={},
        scores=scores,
        source=source,
        tools=tool_versions(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def artefact_name(artefact: Artefact) -> str:
    """How a score calls an artefact, such as "ncnn int8"."""
    return f"{artefact.engine} {artefact.precision}"


def with_score(manifest: Manifest, score: Score) -> Manifest:
    """The manifest with `score` in the place of an older one of the same artefact and split."""
    import msgspec

    key = (score.artefact, score.data, score.split)
    others = tuple(s for s in manifest.scores if (s.artefact, s.data, s.split) != key)
    return msgspec.structs.replace(manifest, scores=(*others, score))


def precision_counts(qparams: QParams) -> dict[str, int]:
    """How many layers run in each precision."""
    counts: dict[str, int] = {}
    for layer in qparams.layers.values():
        counts[layer.precision] = counts.get(layer.precision, 0) + 1
    return counts


def _measure_artefact(
    folder: Path, artefact: Artefact, spec: ModelSpec, data: Path, split: str, progress: Progress
) -> Score:
    from edgeyolo.backends import open_artefact
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.evaluation.measure import measure_session

    session = open_artefact(folder, artefact, output_count=spec.output_count, image_hw=spec.input.image_hw)
    try:
        dataset = open_dataset(data, split)
        return measure_session(session, spec, dataset, artefact=artefact_name(artefact), progress=progress)
    finally:
        session.close()
