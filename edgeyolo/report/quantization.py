"""What quantization cost and why, as data: `report.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from edgeyolo.evaluation.parity import MapDifference
from edgeyolo.quantization.study.budget import BudgetStep
from edgeyolo.quantization.study.sensitivity import Sensitivity
from edgeyolo.quantization.study.signal_left import LayerSignal
from edgeyolo.spec.calibration_finding import CalibrationFinding
from edgeyolo.spec.figure import FLOAT_ARTEFACT
from edgeyolo.spec.model import Latency, ModelSpec, Score
from edgeyolo.spec.receptive_field import ReceptiveField
from edgeyolo.spec.recipe import Recipe
from edgeyolo.spec.transfer import ScoreTransfer
from edgeyolo.training.checkpoint import EpochRow

FORMAT_VERSION = 2


class ArtefactRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One artefact on one split.

    Attributes:
        drop: AP of the float torch model on the same split minus this one's, None where that was not measured.
        size_bytes: of the files that ship, None for a model in memory.
        latency: None where it was not measured.
    """

    score: Score
    drop: float | None = None
    size_bytes: int | None = None
    latency: Latency | None = None


class QatHistory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Quantization-aware training; AP is of the fake-quantized model, percent.

    Attributes:
        start_ap: of the calibrated model that it started from.
        best_epoch: whose weights were kept; 0 where nothing was better than the start.
        epochs: one row for each.
    """

    start_ap: float
    best_epoch: int
    epochs: tuple[EpochRow, ...]


class BudgetTrail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The search for the fewest float groups within a budget.

    Attributes:
        max_drop: AP points that may be lost.
        artefact: what was measured at each step.
        floated: groups that are float in the model that was written; the most accurate choice where none is within.
        steps: in the order of time.
    """

    max_drop: float
    artefact: str
    is_met: bool
    floated: tuple[str, ...]
    steps: tuple[BudgetStep, ...]


class EngineDifference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Raw head maps of an artefact against fake-quant torch on the same pictures.

    Attributes:
        integers_differing: part of all int8 tensor elements that differ, in [0, 1], on a few of the pictures, each
            engine running on its own; None where they cannot be read.
    """

    artefact: str
    pictures: int
    maps: tuple[MapDifference, ...]
    integers_differing: float | None = None


class WorstPicture(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A picture on which float and int8 disagree.

    Attributes:
        matched: objects that both report.
        only_float, only_int8: objects that only one of them reports.
        mean_iou, mean_score_difference: of the matched ones, -1 where nothing matches.
    """

    image_id: str
    caption: str
    matched: int
    only_float: int
    only_int8: int
    mean_iou: float
    mean_score_difference: float


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where everything comes from.

    Attributes:
        method: "ptq" or "qat".
        picture_count: pictures calibrated on.
        created: ISO 8601, UTC.
        tools: package name -> version.
    """

    recipe_name: str
    recipe: Recipe
    method: str
    data: str
    picture_count: int
    checkpoint_sha256: str
    onnx_sha256: str
    created: str
    tools: dict[str, str]


class QuantizationReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of `report.json`.

    Attributes:
        layers: precision -> how many layers.
        float_reasons: why -> how many layers are float for it.
        groups: number of scale groups.
        rows: artefacts, the float torch model of each split first.
        receptive_fields: of each level, the theoretical and the effective one of the float model.
        object_sides_px: square root of the area in the network's input that 5, 50 and 95 % of the objects do not
            exceed; none where there are no objects.
        signal: per layer, in the order of the network.
        findings: of the calibration pictures.
        transfers: of each int8 artefact, what stands for score thresholds of the float model.
        chosen_on: split that epochs of QAT and float layers were chosen on, and sensitivity was measured on.
    """

    format_version: int = FORMAT_VERSION
    title: str
    model: ModelSpec
    layers: dict[str, int]
    float_reasons: dict[str, int]
    groups: int
    rows: tuple[ArtefactRow, ...]
    provenance: Provenance
    receptive_fields: tuple[ReceptiveField, ...] = ()
    object_sides_px: tuple[float, ...] = ()
    signal: tuple[LayerSignal, ...] = ()
    chosen_on: str = ""
    sensitivity: Sensitivity | None = None
    qat: QatHistory | None = None
    budget: BudgetTrail | None = None
    parity: tuple[EngineDifference, ...] = ()
    findings: tuple[CalibrationFinding, ...] = ()
    transfers: tuple[ScoreTransfer, ...] = ()
    worst: tuple[WorstPicture, ...] = ()


def artefact_rows(
    scores: Sequence[Score],
    *,
    size_bytes: Mapping[str, int] | None = None,
    latencies: Mapping[str, Latency] | None = None,
) -> tuple[ArtefactRow, ...]:
    """Scores in their order, with the drop from "float torch" on the same data and split.

    Args:
        size_bytes, latencies: by `Score.artefact`.
    """
    floats = {(score.data, score.split): score.ap for score in scores if score.artefact == FLOAT_ARTEFACT}
    rows = []
    for score in scores:
        reference = floats.get((score.data, score.split))
        drop = None if reference is None or min(reference, score.ap) < 0 else round(reference - score.ap, 4)
        rows.append(
            ArtefactRow(
                score=score,
                drop=drop,
                size_bytes=(size_bytes or {}).get(score.artefact),
                latency=(latencies or {}).get(score.artefact),
            )
        )
    return tuple(rows)
