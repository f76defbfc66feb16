"""How long a network will take on a board that is not here: a range, and what it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgeyolo.spec.figure import Kind
from edgeyolo.spec.settings import WholeNumber
from edgeyolo.spec.target import Precision

# From its time on this computer, and its layers; from its layers alone; by a line through what others published.
Method = Literal["timed here", "by layers", "interpolated"]


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Milliseconds of the network alone, for one picture, on a board that does nothing else.

    Attributes:
        board: its name.
        title: for people.
        engine: that would run there.
        precision: of the network there.
        threads: of the engine there, 0 where a GPU or NPU computes.
        low_ms, high_ms: the range.
        middle_ms: of it, as likely too long as too short.
        coverage: share of networks whose time is in such a range, were they like those with published times: as each of
            these was, left out in turn.
        method: how it was made.
        rests_on: kinds of the numbers that it was made of.
        sources: of these.
    """

    board: str
    title: str
    engine: str
    precision: Precision
    threads: int
    low_ms: float
    middle_ms: float
    high_ms: float
    coverage: float
    method: Method
    rests_on: tuple[Kind, ...]
    sources: tuple[str, ...]
    kind: Kind = "estimated"


class EstimateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For which boards `estimate` says it, and from what.

    Attributes:
        board: board, or target of `edgeyolo targets`; may be given again. That of the bundle if not given.
        all: every board that is known.
        precision: of a folder or checkpoint; int8 if not given where it has scales, else the board's floats.
        threads: of the engine on the board; the nearest number that it was measured with is taken, 0 for the most.
        measure: time it on this computer, too, which makes the range narrower.
        plot: picture of the ranges to write (.png).
    """

    board: tuple[str, ...] = ()
    all: bool = False
    precision: Literal["int8", "fp16", "fp32"] | None = None
    threads: WholeNumber = 0
    measure: bool = True
    plot: Path | None = None


class ModelsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `models` sorts by.

    Attributes:
        target: board, or target of `edgeyolo targets`: fastest models there first, by estimate.
    """

    target: str | None = None
