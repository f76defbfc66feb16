"""`quantize`: checkpoint -> model.onnx + qparams.json, and a report of what it cost.

Epochs of QAT and layers kept float are chosen on the val split, or on pictures held out of train where there is none;
scores are of the split that is asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.atomic import check_replaceable, write_file
from edgeyolo.spec.errors import GateError, UsageError
from edgeyolo.spec.model import Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.quantizing import QUANTIZED_FILES, QuantizeOptions
from edgeyolo.spec.recipe import DEFAULT_RECIPE
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.target import load_target
from edgeyolo.verbs._splits import open_scored_data, open_training_data

if TYPE_CHECKING:
    from torch import nn

    from edgeyolo.data.dataset import Dataset
    from edgeyolo.quantization.calibrate.ranges import Picture
    from edgeyolo.quantization.quantize import Quantized
    from edgeyolo.quantization.recover.qat import QatResult
    from edgeyolo.quantization.study.budget import BudgetResult
    from edgeyolo.quantization.study.sensitivity import Sensitivity
    from edgeyolo.spec.recipe import Recipe
    from edgeyolo.training.checkpoint import Checkpoint

PROXY_PICTURES = 16  # for sensitivity and signal
_WORK_FILES = ("qat", "sensitivity.json")  # of what can be resumed
_FLOAT, _FAKE_QUANT = "float torch", "fake-quant torch"


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` wrote: the folder, all scores, how many layers run in each precision, and the explanation."""

    folder: Path
    scores: tuple[Score, ...]
    layers: dict[str, int]
    explanation: str = ""


@dataclass(frozen=True)
class Job:
    """What one call of the verb works on.

    Attributes:
        train_data: calibrated and trained on.
        choice_data: what epochs and layers are chosen by.
        scored_data: what scores are of; `choice_data` itself where no other split is asked for.
        work: folder for what can be resumed.
    """

    source: Checkpoint
    recipe: Recipe
    recipe_name: str
    options: QuantizeOptions
    train_data: Dataset
    choice_data: Dataset
    scored_data: Dataset
    work: Path
    progress: Progress


@dataclass(frozen=True)
class Findings:
    """What became of the calibrated model, and what was found on the way; None for what was not asked for.

    Attributes:
        pictures: a few network inputs that are looked at again.
        float_choice: of the float model, on what choices are made by.
    """

    quantized: Quantized
    pictures: Sequence[Picture] = ()
    float_choice: Score | None = None
    qat: QatResult | None = None
    sensitivity: Sensitivity | None = None
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

    Long parts keep their state in the folder `out` + ".work", which is gone once `out` is written. The processes that
    `torchrun` starts share quantization-aware training; the rest is done by the first one, and the others give back an
    empty result.

    Args:
        out: absent, empty, or written by `quantize` before; a folder that holds anything else is left as it is.
        recipe: name in `calib/`, or a path to a `.toml`.

    Raises:
        UnknownNameError: no such recipe, or it names a layer that does not exist.
        GateError: no choice of float layers keeps the drop within `max_drop`; the best one found is in `out`.
        CheckpointError, DataError, QuantizationError, ExportError, OutputError: as their names say.
    """
    from edgeyolo.export import export_model
    from edgeyolo.training.distributed import find_world

    options = options or QuantizeOptions()
    check_options(options)
    is_first = find_world().is_first
    if not (is_first or options.qat):
        return QuantizeResult(out, (), {})
    job = open_job(checkpoint, data, out, recipe, options, progress if is_first else SILENT)
    found = calibrate(job)
    if options.qat:
        found = train_on(job, found)
    if not is_first:
        return QuantizeResult(out, (), {})
    found = improve(job, found)
    spec = job.source.record.model
    scores = measure_torch(job, found) if options.evaluate else ()
    export_model(found.quantized, spec, out, checkpoint_sha256=job.source.sha256, scores=scores)
    explanation = write_explanation(found.quantized, out, spec.name) if options.explain else ""
    if options.report and options.evaluate:
        from edgeyolo.verbs._quantize_report import report_on

        scores += report_on(job, found, scores, out)
    if job.work.is_dir():
        shutil.rmtree(job.work)
    check_budget(found.budget, options, out)
    return QuantizeResult(out, scores, count_precisions(out), explanation)


def check_options(options: QuantizeOptions) -> None:
    """Raise UsageError for a value that cannot be used, UnknownNameError for no such target."""
    check_settings(options)
    if options.max_drop is not None and "int8" not in load_target(options.target).precisions:
        raise UsageError("the target has no int8", where=options.target, hint="Choose another --target")


def open_job(checkpoint: Path, data: Path, out: Path, recipe: str, options: QuantizeOptions, progress: Progress) -> Job:
    """Read recipe, checkpoint and data, and see that nothing of others is in the way; errors as in `quantize`."""
    from edgeyolo.evaluation.measure import check_classes
    from edgeyolo.spec.recipe import load_recipe
    from edgeyolo.training.checkpoint import load_checkpoint

    settings, work = load_recipe(recipe), Path(f"{out}.work")
    check_replaceable(out, QUANTIZED_FILES, sources=(checkpoint, data))
    check_replaceable(work, _WORK_FILES)
    source = load_checkpoint(checkpoint)
    train_data, choice_data = open_training_data(data)
    check_classes(source.record.model, train_data)
    return Job(
        source=source,
        recipe=settings,
        recipe_name=Path(recipe).stem,
        options=options,
        train_data=train_data,
        choice_data=choice_data,
        scored_data=open_scored_data(data, options.split, choice_data),
        work=work,
        progress=progress,
    )


def calibrate(job: Job) -> Findings:
    """The model with ranges from training pictures."""
    from edgeyolo.quantization import quantize as quantize_model
    from edgeyolo.quantization.calibrate.cache import CalibrationCache
    from edgeyolo.quantization.calibrate.pictures import calibration_pictures

    spec, recipe, options = job.source.record.model.input, job.recipe, job.options
    pictures, hashes = calibration_pictures(job.train_data, spec, count=recipe.count, seed=recipe.seed)
    quantized = quantize_model(
        job.source.model,
        pictures,
        recipe,
        recipe_name=job.recipe_name,
        picture_hashes=hashes,
        cache=CalibrationCache(spec),
        progress=job.progress,
    )
    is_looked_at = (options.report and options.evaluate) or options.sensitivity or options.max_drop is not None
    few = [picture for picture, _ in zip(pictures, range(PROXY_PICTURES), strict=False)] if is_looked_at else []
    return Findings(quantized, few)


def improve(job: Job, found: Findings) -> Findings:
    """Measure what each group costs, and keep layers float, as asked for."""
    options = job.options
    if options.sensitivity or options.max_drop is not None:
        score = measure_module(job, found.quantized.reference, _FLOAT, job.choice_data)
        found = replace(found, float_choice=score)
        found = replace(found, sensitivity=find_sensitivity(job, found))
    if options.max_drop is not None:
        budget = keep_within_budget(job, found, options.max_drop)
        found = replace(found, quantized=budget.quantized, budget=budget)
    return found


def measure_module(job: Job, module: nn.Module, artefact: str, data: Dataset) -> Score:
    """COCO mAP of a torch module."""
    from edgeyolo.evaluation.measure import measure_session
    from edgeyolo.training.torch_session import open_torch_session

    spec = job.source.record.model
    return measure_session(open_torch_session(module), spec, data, artefact=artefact, progress=job.progress)


def measure_torch(job: Job, found: Findings) -> tuple[Score, ...]:
    """Scores of the float and the fake-quantized model."""
    score = found.float_choice
    if score is None or job.scored_data is not job.choice_data:
        score = measure_module(job, found.quantized.reference, _FLOAT, job.scored_data)
    return score, measure_module(job, found.quantized.fake_quant, _FAKE_QUANT, job.scored_data)


def train_on(job: Job, found: Findings) -> Findings:
    """Quantization-aware training."""
    from edgeyolo.quantization.recover.qat import QatStart, train_quantized
    from edgeyolo.training.run import LAST

    folder = job.work / "qat"
    start = QatStart(found.quantized, job.source.model, job.source.record.model, job.train_data, job.choice_data)
    resume = job.options.resume and (folder / LAST).is_file()
    qat = train_quantized(start, job.recipe.qat, folder, resume=resume, progress=job.progress)
    return replace(found, quantized=qat.quantized, qat=qat)


def find_sensitivity(job: Job, found: Findings) -> Sensitivity:
    """What each scale group costs; by mAP only where that was asked for."""
    from edgeyolo.quantization.study.sensitivity import MapMeasure, measure_sensitivity

    by_map = None
    if job.options.sensitivity and job.options.sensitivity_groups:
        by_map = MapMeasure(
            lambda module: measure_module(job, module, _FAKE_QUANT, job.choice_data).ap,
            most=job.options.sensitivity_groups,
            cache=job.work / "sensitivity.json",
            data=job.choice_data.digest(),
        )
    decode = job.source.record.model.decode
    return measure_sensitivity(found.quantized, found.pictures, decode=decode, by_map=by_map, progress=job.progress)


def keep_within_budget(job: Job, found: Findings, max_drop: float) -> BudgetResult:
    """Layers float until the artefact that ships is within the budget, or the best that was found."""
    from edgeyolo.export import export_model
    from edgeyolo.quantization.study.budget import meet_budget
    from edgeyolo.verbs._artefacts import measure_built

    def measure_deployed(candidate: Quantized) -> float:
        with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
            folder = Path(work) / "candidate"
            export_model(candidate, job.source.record.model, folder)
            return measure_built(folder, job.options.target, "int8", job.choice_data, progress=job.progress).ap

    assert found.sensitivity is not None and found.float_choice is not None
    return meet_budget(
        found.quantized,
        found.sensitivity.ranking(),
        float_ap=found.float_choice.ap,
        max_drop=max_drop,
        measure_deployed=measure_deployed,
        progress=job.progress,
    )


def count_precisions(folder: Path) -> dict[str, int]:
    """How many layers run in each precision."""
    layers = load_qparams(folder / "qparams.json").layers.values()
    return dict(Counter(str(layer.precision) for layer in layers))


def check_budget(budget: BudgetResult | None, options: QuantizeOptions, out: Path) -> None:
    """Raise GateError where no choice of float layers was good enough."""
    if budget is not None and not budget.met:
        drop = min(step.drop for step in budget.trail)
        raise GateError(
            f"{options.target} loses {drop:.2f} AP at best, over the {options.max_drop} allowed",
            where=out,
            hint="The best that was found is there; try --qat, another recipe, or a larger --max-drop",
        )


def write_explanation(quantized: Quantized, out: Path, title: str) -> str:
    """`graph.dot` in the folder `out`, and the same in words."""
    from edgeyolo.quantization.placement.explain import explain
    from edgeyolo.report.graph import graph_dot

    deploy, placement = quantized.float_deploy, quantized.placement
    write_file(out / "graph.dot", graph_dot(deploy, placement, title).encode())
    return str(explain(placement, deploy, quantized.scales))
