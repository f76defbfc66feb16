"""Numbers that say how they came about, and the row of a scoreboard that is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from edgeyolo.spec.manifest import Manifest
    from edgeyolo.spec.model import Latency, ModelSpec, Score

# On the thing itself; in the vendor's simulator of it; instructions in an emulator; from other numbers, as a range; by
# others, on their own.
Kind = Literal["measured", "simulated", "counted", "estimated", "published"]
Unit = Literal["AP", "bytes", "ms", "network ms", "instructions"]
FLOAT_ARTEFACT = "float torch"
OWN_WEIGHTS = "own weights"
SIMULATED_MARK = " (simulated)"  # at the end of what a score calls an artefact


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One number.

    Attributes:
        unit: "AP" (percent), "bytes", "ms" (of one picture's whole `detect` call, median), "network ms" (of the network
            in it) or "instructions" (of one picture).
        source: device, core, or publication that it is from; "" where the row says it.
        low, high: the range that an estimate is in the middle of.
    """

    value: float
    unit: Unit
    kind: Kind
    source: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """Number and unit, and how it came about where that is not by measuring."""
        how = "" if self.kind == "measured" else f" ({self.kind})"
        return f"{self.value:.2f}{'' if self.unit == 'AP' else f' {self.unit}'}{how}"


class ScoreboardRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model on one engine, scored on one split; None, empty or 0 where it is not known.

    Attributes:
        data, split: that it was scored on.
        ap_float: of the float model on the same pictures.
        ap: of the artefact.
        size: of the files that ship.
        costs: milliseconds and instructions, figures for each device or core.
        image_hw: height and width of the network's input, pixels.
        pictures: that it was scored on.
        layers: how many run in each precision.
        licence: of the weights, an SPDX name; `OWN_WEIGHTS` for those that nobody else has published.
        version: of edgeyolo, with which it was made.
        date: ISO 8601, when it was made.
        sha256: of the bundle's file, the checkpoint or the ONNX file.
        checkpoint: sha256 of the float model's checkpoint, which all of its artefacts share.
        read_from: files or publications.
    """

    model: str
    target: str = ""
    engine: str = ""
    precision: str = ""
    data: str = ""
    split: str = ""
    ap_float: Figure | None = None
    ap: Figure | None = None
    size: Figure | None = None
    costs: tuple[Figure, ...] = ()
    image_hw: tuple[int, int] | None = None
    pictures: int = 0
    layers: dict[str, int] = {}
    licence: str = ""
    version: str = ""
    date: str = ""
    sha256: str = ""
    checkpoint: str = ""
    read_from: tuple[str, ...] = ()


def scoreboard_rows(manifest: Manifest, size_bytes: int) -> list[ScoreboardRow]:
    """A row for each split that the artefact of a bundle was scored on, or one without accuracy.

    Args:
        size_bytes: of the bundle's files.
    """
    artefact = manifest.artefact
    name = f"{artefact.engine} {artefact.precision}"
    own = [s for s in manifest.scores if s.artefact.removesuffix(SIMULATED_MARK) == name]
    row = ScoreboardRow(
        **model_columns(manifest.model),
        target=manifest.target,
        engine=f"{artefact.engine} {artefact.engine_version}".strip(),
        precision=artefact.precision,
        size=Figure(value=size_bytes, unit="bytes", kind="measured"),
        costs=tuple(figure for time in manifest.latency for figure in time_figures(time)),
        layers=artefact.layers,
        version=manifest.tools.get("edgeyolo", ""),
        date=manifest.created,
        checkpoint=manifest.source.get("checkpoint", ""),
    )
    return [with_score(row, score, manifest.scores) for score in own] or [row]


def model_columns(model: ModelSpec) -> dict[str, Any]:
    """What a row says of its model."""
    licence = OWN_WEIGHTS if model.origin is None else model.origin.licence
    return {"model": model.name, "image_hw": model.input.image_hw, "licence": licence}


def with_score(row: ScoreboardRow, score: Score, scores: Iterable[Score]) -> ScoreboardRow:
    """The row with a score of its artefact, and that of the float model on the same pictures, if there is one."""
    floats = {(s.data, s.split): s for s in scores if s.artefact == FLOAT_ARTEFACT}
    reference = floats.get((score.data, score.split))
    return msgspec.structs.replace(
        row,
        data=score.data,
        split=score.split,
        pictures=score.images,
        ap=ap_figure(score),
        ap_float=None if reference is None else ap_figure(reference),
    )


def time_figures(time: Latency) -> tuple[Figure, Figure]:
    """The whole call and the network in it."""
    on = device_text(time.device, time.threads)
    return (
        Figure(value=time.total_ms_median, unit="ms", kind="measured", source=on),
        Figure(value=time.network_ms_median, unit="network ms", kind="measured", source=on),
    )


def device_text(device: str, threads: int) -> str:
    """How figures name the device that they are from."""
    return f"{device}, {threads} thread{'' if threads == 1 else 's'}" if threads else device


def ap_figure(score: Score) -> Figure | None:
    """AP, None where it is undefined: there was nothing to find."""
    return Figure(value=score.ap, unit="AP", kind=score.kind) if score.ap >= 0 else None
