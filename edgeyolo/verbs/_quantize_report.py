"""The report of `quantize`: what torch and the engines on this computer make of one quantized model."""

from __future__ import annotations

import datetime
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.detecting import DEFAULT_SCORE_THRESHOLD
from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.spec.machine import processor_name
from edgeyolo.spec.model import Latency, Score
from edgeyolo.spec.provenance import sha256_of, tool_versions
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.target import Precision, needs_scales
from edgeyolo.spec.transfer import DEFAULT_MATCH, ScoreTransfer
from edgeyolo.verbs._artefacts import Built, open_built, time_session
from edgeyolo.verbs._evaluate import measure_and_see, measure_artefact
from edgeyolo.verbs._thresholds import compare_scores

if TYPE_CHECKING:
    from edgeyolo.quantization.quantize import Quantized
    from edgeyolo.quantization.recover.qat import QatResult
    from edgeyolo.quantization.study.budget import BudgetResult
    from edgeyolo.report.quantization import BudgetTrail, EngineDifference, QatHistory, WorstPicture
    from edgeyolo.report.quantization_plots import Overlay
    from edgeyolo.spec.detections import Detections, Image
    from edgeyolo.spec.receptive_field import ReceptiveField
    from edgeyolo.verbs._quantize import Findings, Job

logger = logging.getLogger(__name__)

PARITY_PICTURES, INTEGER_PICTURES, FIELD_PICTURES = 8, 2, 4


def report_on(job: Job, found: Findings, scores: Sequence[Score], folder: Path) -> tuple[Score, ...]:
    """Measure every artefact that runs here and write report.json, report.html and plots to `folder`.

    Args:
        scores: of the torch models.

    Returns:
        The scores of the engines.
    """
    from edgeyolo.backends import list_packages
    from edgeyolo.quantization.study.signal_left import layer_sqnr
    from edgeyolo.report.quantization import Provenance, QuantizationReport, artefact_rows
    from edgeyolo.report.quantization_page import write_report

    quantized = found.quantized
    measured = EngineFigures(job, quantized, folder)
    spec, plans = job.source.record.model, quantized.placement.layers.values()
    elsewhere = [found.float_choice] if found.float_choice and job.scored_data is not job.choice_data else []
    report = QuantizationReport(
        title=f"{spec.name}, {job.recipe_name}",
        model=spec,
        layers=dict(Counter(plan.precision for plan in plans)),
        float_reasons=dict(Counter(plan.why for plan in plans if plan.precision == "float")),
        groups=len(quantized.placement.groups),
        rows=artefact_rows(
            [*scores, *measured.scores, *elsewhere], size_bytes=measured.size_bytes, latencies=measured.latencies
        ),
        provenance=Provenance(
            recipe_name=job.recipe_name,
            recipe=job.recipe,
            method=quantized.calibration.method,
            data=job.scored_data.name,
            picture_count=quantized.calibration.count,
            checkpoint_sha256=job.source.sha256,
            onnx_sha256=sha256_of(folder / "model.onnx"),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            tools=tool_versions(list_packages()),
        ),
        receptive_fields=_receptive_fields(job, quantized, folder),
        object_sides_px=_object_sides_px(job),
        signal=tuple(layer_sqnr(quantized.on(job.device), found.pictures, job.progress)),
        chosen_on=job.choice_data.split,
        sensitivity=found.sensitivity,
        qat=qat_history(found.qat),
        budget=budget_trail(found.budget, job.options.max_drop, job.options.target),
        parity=tuple(measured.differences),
        findings=quantized.calibration.findings,
        transfers=tuple(measured.transfers),
        worst=measured.worst,
    )
    try:
        write_report(folder, report, measured.worst_jpegs, measured.overlay)
    except MissingPackageError as error:
        logger.warning("report.json is written, report.html is not: %s", error)
    return tuple(measured.scores)


def _receptive_fields(job: Job, quantized: Quantized, folder: Path) -> tuple[ReceptiveField, ...]:
    """The theoretical ones of the graph, with the effective ones measured on a few pictures."""
    import msgspec

    from edgeyolo.geometry.network_input import make_input
    from edgeyolo.quantization.study.receptive_field import effective_fields
    from edgeyolo.spec.model import ModelRecord
    from edgeyolo.spec.strict import load_json

    spec, data = job.source.record.model, job.scored_data
    fields = load_json(folder / "model.json", ModelRecord).receptive_fields
    images = [make_input(data[i].image, spec.input)[0][0] for i in range(min(FIELD_PICTURES, len(data)))]
    sides = effective_fields(quantized.reference, [field.stride for field in fields], images)
    return tuple(msgspec.structs.replace(f, effective_px=side) for f, side in zip(fields, sides, strict=True))


def _object_sides_px(job: Job) -> tuple[float, ...]:
    import numpy as np

    from edgeyolo.data.letterboxed import letterboxed_sides
    from edgeyolo.evaluation.tasks import task_of

    if not task_of(job.source.record.model.decode).finds_boxes:
        return ()
    sides = letterboxed_sides(job.scored_data.records, job.source.record.model.input.image_hw)
    return tuple(np.percentile(np.sqrt(sides.prod(axis=1)), (5, 50, 95)).tolist()) if len(sides) else ()


class EngineFigures:
    """Scores, sizes, times, map differences and worst pictures of what the engines on this computer make of a model."""

    def __init__(self, job: Job, quantized: Quantized, folder: Path) -> None:
        from edgeyolo.backends import list_runnable
        from edgeyolo.evaluation.tasks import task_of

        self._job, self._quantized, self._folder = job, quantized, folder
        self.scores: list[Score] = []
        self.size_bytes: dict[str, int] = {}
        self.latencies: dict[str, Latency] = {}
        self.differences: list[EngineDifference] = []
        self.transfers: list[ScoreTransfer] = []
        self.overlay: Overlay | None = None
        self._expected: dict[int, Detections] = {}
        self.worst: tuple[WorstPicture, ...] = ()
        self.worst_jpegs: dict[str, bytes] = {}
        self._finds_boxes = task_of(job.source.record.model.decode).finds_boxes
        for runnable in list_runnable():
            is_first_of_engine = runnable.is_host or runnable.is_simulated
            precision: Precision = "int8" if is_first_of_engine else "fp16"
            if runnable.problems:
                problems = "; ".join(runnable.problems)
                logger.warning("%s %s is not in the report: %s", runnable.target, precision, problems)
                continue
            with open_built(folder, runnable.target, precision) as built:
                self._measure(built, is_timed=not runnable.is_simulated)
                if precision == "int8":
                    self._compare(built)

    def _measure(self, built: Built, *, is_timed: bool) -> None:
        data, name = self._job.scored_data, built.name
        measured = (built.session, built.artefact, built.spec, data)
        if needs_scales(built.artefact.precision) and self._finds_boxes:
            score, seen = measure_and_see(*measured, progress=self._job.progress)
            self._compare_thresholds(name, seen)
        else:
            score = measure_artefact(*measured, progress=self._job.progress)
        self.scores.append(score)
        self.size_bytes[name] = built.size_bytes
        if is_timed:
            self.latencies[name] = time_session(built.session, built.spec, data, device=processor_name())

    def _compare_thresholds(self, name: str, seen: dict[int, Detections]) -> None:
        """What stands for thresholds of the float model, and for the first artefact curves of both."""
        from edgeyolo.evaluation.curves import measure_curves
        from edgeyolo.evaluation.measure import detect_everyday
        from edgeyolo.report.quantization_plots import Overlay
        from edgeyolo.training.torch_session import TorchSession

        data, spec = self._job.scored_data, self._job.source.record.model
        if not self._expected:
            session = TorchSession(self._quantized.reference)
            self._expected = detect_everyday(session, spec, data, progress=self._job.progress)
        if not any(map(len, self._expected.values())):
            return
        transfer = compare_scores(
            self._expected, seen, data, name, score_threshold=DEFAULT_SCORE_THRESHOLD, match=DEFAULT_MATCH
        )
        self.transfers.append(transfer)
        if self.overlay is None:
            curves = [measure_curves(found, data) for found in (self._expected, seen)]
            self.overlay = Overlay(curves[0], curves[1], data.class_names, transfer)

    def _compare(self, built: Built) -> None:
        """Raw maps against fake-quant, and the pictures on which boxes differ most from those of the float model."""
        from edgeyolo.backends import load_engine
        from edgeyolo.evaluation.parity import compare_maps
        from edgeyolo.report.pictures import worst_pictures
        from edgeyolo.report.quantization import EngineDifference
        from edgeyolo.runtime.detector import Detector
        from edgeyolo.training.torch_session import TorchSession

        data, spec = self._job.scored_data, self._job.source.record.model
        count = min(PARITY_PICTURES, len(data))
        images = [data[index].image for index in range(count)]
        maps = compare_maps(TorchSession(self._quantized.fake_quant), built.session, images, spec.input)
        differing = self._count_integers(images) if load_engine(built.artefact.engine).is_reference else None
        self.differences.append(
            EngineDifference(artefact=built.name, pictures=count, maps=tuple(maps), integers_differing=differing)
        )
        if not self._finds_boxes or self.worst:
            return
        detect_float = Detector(TorchSession(self._quantized.reference), spec).detect
        detect_int8 = Detector(built.session, built.spec).detect
        self.worst, self.worst_jpegs = worst_pictures(detect_float, detect_int8, data, progress=self._job.progress)

    def _count_integers(self, images: Sequence[Image]) -> float:
        """Part of the integers of all int8 tensors that ONNX Runtime and fake-quant do not share, each on its own."""
        import onnx

        from edgeyolo.export.integers import compare_integers, differing_part
        from edgeyolo.geometry.network_input import make_input

        spec = self._job.source.record.model
        batches = [make_input(image, spec.input)[0] for image in images[:INTEGER_PICTURES]]
        model = onnx.load(self._folder / "model.onnx")
        qparams = load_qparams(self._folder / "qparams.json")
        return differing_part(compare_integers(self._quantized, model, qparams, batches))


def qat_history(qat: QatResult | None) -> QatHistory | None:
    """What the report keeps of a training."""
    if qat is None:
        return None
    from edgeyolo.report.quantization import QatHistory

    return QatHistory(start_ap=qat.start.ap, best_epoch=qat.best_epoch, epochs=qat.history)


def budget_trail(budget: BudgetResult | None, max_drop: float | None, target: str) -> BudgetTrail | None:
    """What the report keeps of the search for float layers."""
    if budget is None or max_drop is None:
        return None
    from edgeyolo.report.quantization import BudgetTrail

    return BudgetTrail(
        max_drop=max_drop,
        artefact=f"{target} int8",
        is_met=budget.met,
        floated=budget.floated,
        steps=budget.trail,
    )
