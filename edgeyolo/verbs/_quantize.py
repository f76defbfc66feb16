"""`quantize`: checkpoint -> model.onnx + qparams.json, and a report of what it cost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.errors import GateError, UsageError
from edgeyolo.spec.model import Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import QParams, load_qparams
from edgeyolo.spec.quantizing import QuantizeOptions
from edgeyolo.spec.recipe import DEFAULT_RECIPE
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.target import load_target
from edgeyolo.verbs._splits import validation_split

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.quantization.calibrate.ranges import Picture
    from edgeyolo.quantization.quantize import Quantized
    from edgeyolo.quantization.recover.qat import QatResult
    from edgeyolo.quantization.study.budget import BudgetResult
    from edgeyolo.quantization.study.sensitivity import Sensitivity
    from edgeyolo.spec.recipe import Recipe
    from edgeyolo.training.checkpoint import Checkpoint

PROXY_PICTURES = 16  # for sensitivity and signal


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` wrote: the folder, all scores, how many layers run in each precision, and the explanation."""

    folder: Path
    scores: tuple[Score, ...]
    layers: dict[str, int]
    explanation: str = ""


@dataclass
class Job:
    """One run of the verb: what goes in, and what has been found so far."""

    source: Checkpoint
    recipe: Recipe
    recipe_name: str
    options: QuantizeOptions
    train_data: Dataset
    val_data: Dataset
    pictures: Sequence[Picture]
    work: Path
    progress: Progress
    scores: list[Score] = field(default_factory=list)
    sensitivity: Sensitivity | None = None
    qat: QatResult | None = None
    budget: BudgetResult | None = None


def quantize(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    recipe: str = DEFAULT_RECIPE,
    options: QuantizeOptions | None = None,
    progress: Progress = SILENT,
) -> QuantizeResult:
    """Calibrate a trained model on training pictures and write `model.onnx`, `qparams.json` and `model.json` to `out`.

    Long parts keep their state in the folder `out` + ".work", which is gone once `out` is written.

    Args:
        recipe: name in `calib/`, or a path to a `.toml`.

    Raises:
        UnknownNameError: no such recipe, or it names a layer that does not exist.
        GateError: no choice of float layers keeps the drop within `max_drop`; the best one found is in `out`.
        CheckpointError, DataError, QuantizationError, ExportError, OutputError: as their names say.
    """
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.evaluation.measure import check_classes
    from edgeyolo.export import export_model
    from edgeyolo.quantization import quantize as quantize_model
    from edgeyolo.quantization.calibrate.cache import CalibrationCache
    from edgeyolo.quantization.calibrate.pictures import calibration_pictures
    from edgeyolo.spec.recipe import load_recipe
    from edgeyolo.training.checkpoint import load_checkpoint

    options = options or QuantizeOptions()
    check_options(options)
    settings, source = load_recipe(recipe), load_checkpoint(checkpoint)
    spec = source.record.model
    train_data = open_dataset(data, "train")
    check_classes(spec, train_data)
    val_data = open_dataset(data, options.split or validation_split(data))
    pictures, hashes = calibration_pictures(train_data, spec.input, count=settings.count, seed=settings.seed)
    quantized = quantize_model(
        source.model,
        pictures,
        settings,
        recipe_name=Path(recipe).stem,
        picture_hashes=hashes,
        cache=CalibrationCache(spec.input),
        progress=progress,
    )
    few = (
        [picture for picture, _ in zip(pictures, range(PROXY_PICTURES), strict=False)]
        if needs_pictures(options)
        else []
    )
    job = Job(source, settings, Path(recipe).stem, options, train_data, val_data, few, Path(f"{out}.work"), progress)
    quantized = improve(job, quantized)
    export_model(quantized, spec, out, checkpoint_sha256=source.sha256, scores=tuple(job.scores))
    explanation = write_explanation(quantized, out, spec.name) if options.explain else ""
    if options.report and options.evaluate:
        from edgeyolo.verbs._quantize_report import report_on

        job.scores += report_on(job, quantized, out)
    if job.work.is_dir():
        shutil.rmtree(job.work)
    if job.budget is not None and not job.budget.met:
        drop = min(step.drop for step in job.budget.trail)
        raise GateError(
            f"{options.target} loses {drop:.2f} AP at best, over the {options.max_drop} allowed",
            where=out,
            hint="The best that was found is there; try --qat, another recipe, or a larger --max-drop",
        )
    return QuantizeResult(out, tuple(job.scores), precision_counts(load_qparams(out / "qparams.json")), explanation)


def check_options(options: QuantizeOptions) -> None:
    """Raise UsageError for a value that cannot be used, UnknownNameError for no such target."""
    check_settings(options)
    if options.max_drop is not None and "int8" not in load_target(options.target).precisions:
        raise UsageError("the target has no int8", where=options.target, hint="Choose another --target")


def needs_pictures(options: QuantizeOptions) -> bool:
    """Whether a few network inputs are looked at again."""
    return (options.report and options.evaluate) or options.sensitivity or options.max_drop is not None


def improve(job: Job, quantized: Quantized) -> Quantized:
    """Train, measure, and keep layers float, as asked for; scores of the outcome go into the job."""
    options = job.options
    float_score = None
    if options.evaluate or options.max_drop is not None:
        float_score = measure_module(job, quantized.reference, "float torch")
    if options.qat:
        quantized = train_on(job, quantized)
    if options.sensitivity or options.max_drop is not None:
        job.sensitivity = find_sensitivity(job, quantized)
    if options.max_drop is not None and float_score is not None and job.sensitivity is not None:
        quantized = keep_within_budget(job, quantized, float_score.ap, options.max_drop, job.sensitivity.ranking())
    if options.evaluate and float_score is not None:
        job.scores = [float_score, measure_module(job, quantized.fake_quant, "fake-quant torch")]
    return quantized


def measure_module(job: Job, module: object, artefact: str) -> Score:
    """COCO mAP of a torch module on the split of the job."""
    from torch import nn

    from edgeyolo.evaluation.measure import measure_session
    from edgeyolo.training.torch_session import TorchSession

    assert isinstance(module, nn.Module)
    spec = job.source.record.model
    return measure_session(TorchSession(module), spec, job.val_data, artefact=artefact, progress=job.progress)


def train_on(job: Job, quantized: Quantized) -> Quantized:
    """Quantization-aware training."""
    from edgeyolo.quantization.recover.qat import QatStart, train_quantized
    from edgeyolo.training.run import LAST

    folder = job.work / "qat"
    start = QatStart(quantized, job.source.model, job.source.record.model, job.train_data, job.val_data)
    resume = job.options.resume and (folder / LAST).is_file()
    job.qat = train_quantized(start, job.recipe.qat, folder, resume=resume, progress=job.progress)
    return job.qat.quantized


def find_sensitivity(job: Job, quantized: Quantized) -> Sensitivity:
    """What each scale group costs; by mAP only where that was asked for."""
    from edgeyolo.quantization.study.sensitivity import MapMeasure, measure_sensitivity

    by_map = None
    if job.options.sensitivity and job.options.sensitivity_groups:
        by_map = MapMeasure(
            lambda module: measure_module(job, module, "fake-quant torch").ap,
            most=job.options.sensitivity_groups,
            cache=job.work / "sensitivity.json",
            data=f"{job.val_data.name} {job.val_data.split}",
        )
    decode = job.source.record.model.decode
    return measure_sensitivity(quantized, job.pictures, decode=decode, by_map=by_map, progress=job.progress)


def keep_within_budget(
    job: Job, quantized: Quantized, float_ap: float, max_drop: float, ranking: tuple[str, ...]
) -> Quantized:
    """Layers float until the artefact that ships is within the budget, or the best that was found."""
    from edgeyolo.export import export_model
    from edgeyolo.quantization.study.budget import meet_budget
    from edgeyolo.verbs._artefacts import measure_built

    def measure_deployed(candidate: Quantized) -> float:
        with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
            folder = Path(work) / "candidate"
            export_model(candidate, job.source.record.model, folder)
            return measure_built(folder, job.options.target, "int8", job.val_data, progress=job.progress).ap

    job.budget = meet_budget(
        quantized,
        ranking,
        float_ap=float_ap,
        max_drop=max_drop,
        measure_deployed=measure_deployed,
        progress=job.progress,
    )
    return job.budget.quantized


def write_explanation(quantized: Quantized, out: Path, title: str) -> str:
    """`graph.dot` in the folder `out`, and the same in words."""
    from edgeyolo.quantization.placement.explain import explain
    from edgeyolo.report.graph import graph_dot

    deploy, placement = quantized.float_deploy, quantized.placement
    write_file(out / "graph.dot", graph_dot(deploy, placement, title).encode())
    return str(explain(placement, deploy, quantized.scales))


def precision_counts(qparams: QParams) -> dict[str, int]:
    """How many layers run in each precision."""
    counts: dict[str, int] = {}
    for layer in qparams.layers.values():
        counts[layer.precision] = counts.get(layer.precision, 0) + 1
    return counts
