"""Numbers that say how they came about, and the row of a scoreboard that is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from edgeyolo.spec.manifest import Manifest
    from edgeyolo.spec.model import Score

# On the thing itself; in the vendor's simulator of it; instructions in an emulator; from other numbers, as a range; by
# others, on their own.
Kind = Literal["measured", "simulated", "counted", "estimated", "published"]
FLOAT_ARTEFACT = "float torch"
SIMULATED_MARK = " (simulated)"  # at the end of what a score calls an artefact


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One number.

    Attributes:
        unit: "AP" (percent), "bytes", "ms" (one whole `detect` call, median) or "instructions" (of one picture).
        source: device, core, or publication that it is from; "" where the row says it.
    """

    value: float
    unit: Literal["AP", "bytes", "ms", "instructions"]
    kind: Kind
    source: str = ""


class ScoreboardRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model on one engine, scored on one split.

    Attributes:
        ap_float: of the float model on the same pictures, None where that was not measured.
        ap: of the artefact.
        size: of the files that ship.
        costs: milliseconds and instructions, one figure for each device or core.
    """

    model: str
    target: str
    engine: str
    precision: str
    data: str
    split: str
    ap_float: Figure | None
    ap: Figure
    size: Figure
    costs: tuple[Figure, ...] = ()


def scoreboard_rows(manifest: Manifest, size_bytes: int) -> list[ScoreboardRow]:
    """A row for each split that the artefact of a bundle was scored on.

    Args:
        size_bytes: of the bundle's files.
    """
    artefact = manifest.artefact
    floats = {(s.data, s.split): s for s in manifest.scores if s.artefact == FLOAT_ARTEFACT}
    name = f"{artefact.engine} {artefact.precision}"
    own = [s for s in manifest.scores if s.artefact.removesuffix(SIMULATED_MARK) == name]
    costs = [
        Figure(value=time.total_ms_median, unit="ms", kind="measured", source=time.device) for time in manifest.latency
    ]
    return [
        ScoreboardRow(
            model=manifest.model.name,
            target=manifest.target,
            engine=artefact.engine,
            precision=artefact.precision,
            data=score.data,
            split=score.split,
            ap_float=_ap(floats[score.data, score.split]) if (score.data, score.split) in floats else None,
            ap=_ap(score),
            size=Figure(value=size_bytes, unit="bytes", kind="measured"),
            costs=tuple(costs),
        )
        for score in own
    ]


def _ap(score: Score) -> Figure:
    return Figure(value=score.ap, unit="AP", kind=score.kind)
