"""`quantize`: checkpoint -> model.onnx + qparams.json, and a report of what it cost.

Epochs of QAT and layers kept float are chosen on the val split, or on pictures held out of train where there is none;
scores are of the split that is asked for.
"""

from __future__ import annotations

import copy
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
from edgeyolo.verbs._examine import check_accepted, examine_pictures, tell_findings
from edgeyolo.verbs._splits import open_held_out, open_scored_data, open_training_data, opener_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeyolo.data.dataset import Dataset
    from edgeyolo.quantization.calibrate.pictures import CalibrationPictures
    from edgeyolo.quantization.calibrate.ranges import Picture
    from edgeyolo.quantization.doctor import Examination
    from edgeyolo.quantization.quantize import Quantized
    from edgeyolo.quantization.recover.qat import QatResult
    from edgeyolo.quantization.study.budget import BudgetResult
    from edgeyolo.quantization.study.sensitivity import Sensitivity
    from edgeyolo.spec.calibration_finding import CalibrationFinding
    from edgeyolo.spec.recipe import Recipe
    from edgeyolo.training.checkpoint import Checkpoint
    from edgeyolo.training.distributed import World

PROXY_PICTURES = 16  # for sensitivity and signal
_WORK_FILES = ("qat", "sensitivity.json")  # of what can be resumed
_FLOAT, _FAKE_QUANT = "float torch", "fake-quant torch"


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` wrote: the folder, all scores, how many layers run in each precision, and the explanation.

    Attributes:
        findings: of the calibration pictures.
    """

    folder: Path
    scores: tuple[Score, ...]
    layers: dict[str, int]
    explanation: str = ""
    findings: tuple[CalibrationFinding, ...] = ()


@dataclass(frozen=True)
class Job:
    """What one call of the verb works on.

    Attributes:
        train_data: calibrated and trained on.
        choice_data: what epochs and layers are chosen by.
        scored_data: what scores are of; `choice_data` itself where no other split is asked for.
        held_out: what scores may be of, `choice_data` first.
        work: folder for what can be resumed.
        world: the processes that work together.
        device: of this one, where models calibrate, train and are measured.
    """

    source: Checkpoint
    recipe: Recipe
    recipe_name: str
    options: QuantizeOptions
    train_data: Dataset
    choice_data: Dataset
    scored_data: Dataset
    held_out: tuple[Dataset, ...]
    work: Path
    progress: Progress
    world: World
    device: torch.device


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
    `torchrun` starts share calibration, quantization-aware training and, unless `max_drop` is to be met first, the
    scores of torch models; the rest is done by the first one, and the others give back an empty result.

    Args:
        checkpoint: or a folder that `import` made of an ONNX file: ONNX Runtime then computes what torch cannot.
        out: absent, empty, or written by `quantize` before; a folder that holds anything else is left as it is.
        recipe: name in `calib/`, or a path to a `.toml`.

    Raises:
        UnknownNameError: no such recipe, or it names a layer that does not exist.
        GateError: no choice of float layers keeps the drop within `max_drop`; the best one found is in `out`.
        CalibrationError: pictures that spoil scales or scores.
        CheckpointError, DataError, QuantizationError, ExportError, OutputError: as their names say.
    """
    from edgeyolo.export import export_model
    from edgeyolo.training.distributed import World, joined, noticing_loss
    from edgeyolo.verbs._quantize_onnx import is_graph, quantize_imported
    from edgeyolo.verbs._quantize_report import report_on

    options = options or QuantizeOptions()
    check_options(options)
    if is_graph(checkpoint):
        return QuantizeResult(out, *quantize_imported(checkpoint, data, out, recipe, options, progress))
    world, device = find_place(options)
    with joined(world, device), noticing_loss(world):
        job = world.each(lambda: open_job(checkpoint, data, out, recipe, options, progress))
        found = calibrate(job)
        if options.qat:
            found = train_on(job, found)
        scores = measure_torch(job, found) if options.evaluate and options.max_drop is None else ()
    if not world.is_first:
        return QuantizeResult(out, (), {})
    job = replace(job, world=World())  # what is left is for this process alone
    found = improve(job, found, scores)
    spec = job.source.record.model
    if options.evaluate and not scores:
        scores = measure_torch(job, found)
    export_model(found.quantized, spec, out, checkpoint_sha256=job.source.sha256, scores=scores)
    explanation = write_explanation(found.quantized, out, spec.name) if options.explain else ""
    if options.report and options.evaluate:
        scores += report_on(job, found, scores, out)
    if job.work.is_dir():
        shutil.rmtree(job.work)
    check_budget(found.budget, options, out)
    return QuantizeResult(out, scores, count_precisions(out), explanation, found.quantized.calibration.findings)


def find_place(options: QuantizeOptions) -> tuple[World, torch.device]:
    """The processes that work together, and the device of this one.

    Raises:
        UsageError: the device does not exist here.
    """
    from edgeyolo.training.device import choose_device
    from edgeyolo.training.distributed import find_world, own_device

    world = find_world()
    return world, choose_device(own_device(options.device, world))


def check_options(options: QuantizeOptions) -> None:
    """Raise UsageError for a value that cannot be used, UnknownNameError for no such target."""
    check_settings(options)
    check_accepted(options.accept)
    if options.sparsity is not None and not options.qat:
        raise UsageError("--sparsity is for a training with quantization in the loop", hint="Give --qat too")
    if options.max_drop is not None and "int8" not in load_target(options.target).precisions:
        raise UsageError("the target has no int8", where=options.target, hint="Choose another --target")


def open_job(checkpoint: Path, data: Path, out: Path, recipe: str, options: QuantizeOptions, progress: Progress) -> Job:
    """Read recipe, checkpoint and data, and see that nothing of others is in the way; errors as in `quantize`."""
    from edgeyolo.spec.recipe import load_recipe, with_sparsity
    from edgeyolo.training.checkpoint import load_checkpoint

    settings, work = with_sparsity(load_recipe(recipe), options.sparsity), Path(f"{out}.work")
    check_replaceable(out, QUANTIZED_FILES, sources=(checkpoint, data))
    check_replaceable(work, _WORK_FILES)
    source = load_checkpoint(checkpoint).at_size(options.image_size)
    opener = opener_of(source.record.model)
    train_data, choice_data = open_training_data(data, opener)
    if options.needs_labels:
        opener.task.check_data(source.record.model, train_data)
    world, device = find_place(options)
    return Job(
        source=source,
        recipe=settings,
        recipe_name=Path(recipe).stem,
        options=options,
        train_data=train_data,
        choice_data=choice_data,
        scored_data=open_scored_data(data, options.split, choice_data, opener),
        held_out=open_held_out(data, choice_data, opener),
        work=work,
        progress=progress if world.is_first else SILENT,
        world=world,
        device=device,
    )


def calibrate(job: Job) -> Findings:
    """The model with ranges from training pictures; on the CPU, whatever device calibrates."""
    import torch

    from edgeyolo.quantization import quantize as quantize_model
    from edgeyolo.quantization.calibrate.cache import CalibrationCache
    from edgeyolo.quantization.calibrate.pictures import calibration_pictures

    spec, recipe, options = job.source.record.model.input, job.recipe, job.options
    pictures, hashes = calibration_pictures(job.train_data, spec, count=recipe.count, seed=recipe.seed)
    examined = job.world.by_first(lambda: examine_for(job, pictures))
    quantized = quantize_model(
        copy.deepcopy(job.source.model).to(job.device),
        pictures,
        recipe,
        recipe_name=job.recipe_name,
        picture_hashes=hashes,
        cache=CalibrationCache(spec),
        progress=job.progress,
    )
    is_looked_at = (options.report and options.evaluate) or options.sensitivity or options.max_drop is not None
    few = [picture for picture, _ in zip(pictures, range(PROXY_PICTURES), strict=False)] if is_looked_at else []
    quantized = with_findings(quantized.on(torch.device("cpu")), examined)
    return Findings(quantized, few)


def examine_for(job: Job, pictures: CalibrationPictures) -> Examination | None:
    """What is wrong with the calibration pictures; None where nobody is to look.

    Raises:
        CalibrationError: something that is not accepted.
    """
    if not job.options.doctor:
        return None
    source = job.source
    examined = examine_pictures(source.model, pictures, source.record.model.input, job.held_out, job.options.accept)
    tell_findings(examined.findings)
    return examined


def with_findings(quantized: Quantized, examined: Examination | None) -> Quantized:
    """The same, with what was found before calibration, and what its scales do to held-out pictures, in its record."""
    import msgspec

    from edgeyolo.quantization.doctor import examine_scales

    if examined is None:
        return quantized
    late = examine_scales(examined, quantized.placement, quantized.scales)
    tell_findings(late)
    record = msgspec.structs.replace(quantized.calibration, findings=(*examined.findings, *late))
    return replace(quantized, calibration=record)


def improve(job: Job, found: Findings, scores: Sequence[Score] = ()) -> Findings:
    """Measure what each group costs, and keep layers float, as asked for.

    Args:
        scores: of the torch models on `scored_data`, if they are known already.
    """
    options = job.options
    if options.sensitivity or options.max_drop is not None:
        if scores and job.scored_data is job.choice_data:
            score = scores[0]
        else:
            score = measure_module(job, found.quantized.reference, _FLOAT, job.choice_data)
        found = replace(found, float_choice=score)
        found = replace(found, sensitivity=find_sensitivity(job, found))
    if options.max_drop is not None:
        budget = keep_within_budget(job, found, options.max_drop)
        found = replace(found, quantized=budget.quantized, budget=budget)
    return found


def measure_module(job: Job, module: nn.Module, artefact: str, data: Dataset) -> Score:
    """What a torch module is worth, by the job's processes together."""
    from edgeyolo.training.scoring import score_together
    from edgeyolo.training.torch_session import open_torch_session

    session, spec = open_torch_session(module, job.device), job.source.record.model
    return score_together(session, spec, data, job.world, artefact=artefact, progress=job.progress)


def measure_torch(job: Job, found: Findings) -> tuple[Score, ...]:
    """Scores of the float and the fake-quantized model."""
    score = found.float_choice
    if score is None or job.scored_data is not job.choice_data:
        score = measure_module(job, found.quantized.reference, _FLOAT, job.scored_data)
    return score, measure_module(job, found.quantized.fake_quant, _FAKE_QUANT, job.scored_data)


def train_on(job: Job, found: Findings) -> Findings:
    """Quantization-aware training; all processes get its weights."""
    from edgeyolo.quantization.recover.qat import QatStart, train_quantized
    from edgeyolo.training.run import LAST

    folder = job.work / "qat"
    start = QatStart(found.quantized, job.source.model, job.source.record.model, job.train_data, job.choice_data)
    resume = job.options.resume and (folder / LAST).is_file()
    device = str(job.device)
    qat = train_quantized(start, job.recipe.qat, folder, resume=resume, device=device, progress=job.progress)
    for module in (qat.quantized.fake_quant, qat.quantized.float_deploy):
        job.world.copy_from_first(parameter.data for parameter in module.parameters())
    return replace(found, quantized=qat.quantized, qat=qat)


def find_sensitivity(job: Job, found: Findings) -> Sensitivity:
    """What each scale group costs; by mAP only where that was asked for."""
    from edgeyolo.heads import scored_decode
    from edgeyolo.quantization.study.sensitivity import MapMeasure, measure_sensitivity

    by_map = None
    if job.options.sensitivity and job.options.sensitivity_groups:
        by_map = MapMeasure(
            lambda module: measure_module(job, module, _FAKE_QUANT, job.choice_data).ap,
            most=job.options.sensitivity_groups,
            cache=job.work / "sensitivity.json",
            data=job.choice_data.digest(),
        )
    decode = scored_decode(job.source.record.model.decode)
    quantized = found.quantized.on(job.device)
    return measure_sensitivity(quantized, found.pictures, decode=decode, by_map=by_map, progress=job.progress)


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
