"""What quantization cost and why, as data and as one page: the door of this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edgeyolo.evaluation.parity import MapDifference
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.model import Latency, ModelSpec, Score
from edgeyolo.spec.recipe import Recipe
from edgeyolo.spec.strict import encode_json

FORMAT_VERSION = 1
FLOAT_ARTEFACT = "float torch"


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


class LayerSignal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signal-to-quantization-noise ratio of one layer's output, in decibels; None where there is no noise at all."""

    layer: str
    sqnr_db: float | None


class SensitivityRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one scale group costs; None for a figure that was not measured.

    Attributes:
        ap_regained: percent AP gained when this group alone is kept float.
        ap_lost_alone: percent AP lost when this group alone is int8.
        sqnr_regained_db: of the head maps, when this group alone is kept float.
        sqnr_alone_db: of the head maps, when this group alone is int8.
    """

    group: str
    layers: tuple[str, ...]
    ap_regained: float | None = None
    ap_lost_alone: float | None = None
    sqnr_regained_db: float | None = None
    sqnr_alone_db: float | None = None


class SensitivityTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every group, the most sensitive first.

    Attributes:
        rank_agreement: of the cheap proxy with AP, Spearman's in [-1, 1]; None where AP was not measured.
    """

    rows: tuple[SensitivityRow, ...]
    rank_agreement: float | None = None


class QatPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One epoch of quantization-aware training; AP of the fake-quantized model, percent."""

    epoch: int
    loss: float
    ap: float


class QatHistory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole training.

    Attributes:
        start_ap: of the calibrated model that it started from, percent.
        best_epoch: whose weights were kept; 0 where nothing was better than the start.
    """

    start_ap: float
    best_epoch: int
    points: tuple[QatPoint, ...]


class BudgetStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One trial: which groups were kept float, and what that left."""

    floated: tuple[str, ...]
    ap: float
    drop: float


class BudgetTrail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The search for the fewest float groups within a budget.

    Attributes:
        max_drop: AP allowed, percent.
        artefact: what was measured at each step.
    """

    max_drop: float
    artefact: str
    is_met: bool
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
        signal: per layer, in the order of the network.
    """

    format_version: int = FORMAT_VERSION
    title: str
    model: ModelSpec
    layers: dict[str, int]
    float_reasons: dict[str, int]
    groups: int
    rows: tuple[ArtefactRow, ...]
    provenance: Provenance
    signal: tuple[LayerSignal, ...] = ()
    sensitivity: SensitivityTable | None = None
    qat: QatHistory | None = None
    budget: BudgetTrail | None = None
    parity: tuple[EngineDifference, ...] = ()
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


def write_report(folder: Path, report: QuantizationReport, pictures: Mapping[str, bytes]) -> None:
    """Write `report.json`, then `report.html`: one file that loads nothing from elsewhere.

    Args:
        pictures: JPEG of each of `report.worst`, by image id.

    Raises:
        OutputError: the folder cannot be written.
        MissingPackageError: jinja2 is not installed; `report.json` is there all the same.
    """
    from edgeyolo.report.page import render_page

    write_file(folder / "report.json", encode_json(report))
    write_file(folder / "report.html", render_page(report, pictures).encode())
