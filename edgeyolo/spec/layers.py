"""What an engine says of its layers: in which precision each computes, how long it takes, and what is only converted.

`bench --layers` puts it into its record. It is what the engine did or built, not what the manifest asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

CONVERSION = "conversion"  # in `LayerReport.time_shares` and `counts`, beside precisions


class LayerRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One layer as the engine runs it; several layers of the graph may have become one.

    Attributes:
        name: as the engine calls it.
        kind: of layer, in the engine's words, such as "Convolution" or "Reformat".
        precision: in which it computes: "int8", "fp16", "bf16", "fp32" ..., "" where the engine does not say.
        takes: precision of what it reads, "" where not known. An int8 layer that takes floats quantizes them itself.
        gives: precision of what it writes.
        is_conversion: it changes precision or layout, and computes nothing.
        ms: median of its time, None where it was not timed.
    """

    name: str
    kind: str
    precision: str = ""
    takes: str = ""
    gives: str = ""
    is_conversion: bool = False
    ms: float | None = None


class LayerReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All layers of an artefact, in the order in which they run.

    Attributes:
        method: how it was found out, for people to read.
        runs: of which times are medians; 0 where nothing has run, and no layer has a time.
        rows: the layers.
        counts: how many layers there are of each precision, and of "conversion".
        time_shares: of the sum of all layers' times, each from 0 to 1, by the same names; empty where nothing has run.
    """

    method: str
    runs: int
    rows: tuple[LayerRun, ...]
    counts: dict[str, int]
    time_shares: dict[str, float] = {}


def make_layer_report(rows: Iterable[LayerRun], *, method: str, runs: int) -> LayerReport:
    """A report with its sums."""
    rows = tuple(rows)
    by_group: dict[str, list[LayerRun]] = {}
    for row in rows:
        by_group.setdefault(group_of(row), []).append(row)
    times_ms = {group: _sum_ms(members) for group, members in by_group.items()}
    whole_ms = sum(times_ms.values())
    return LayerReport(
        method=method,
        runs=runs,
        rows=rows,
        counts={group: len(members) for group, members in by_group.items()},
        time_shares={group: ms / whole_ms for group, ms in times_ms.items()} if whole_ms else {},
    )


def group_of(row: LayerRun) -> str:
    """Under which name a layer is counted: its precision, "conversion", or "not known"."""
    return CONVERSION if row.is_conversion else row.precision or "not known"


def converts(row: LayerRun) -> str:
    """What a layer converts on its way, such as "fp32 to int8", or ""."""
    if row.takes and row.gives and row.takes != row.gives:
        return f"{row.takes} to {row.gives}"
    if row.precision == "int8" and row.takes not in ("", "int8"):
        return f"{row.takes} to int8 and back"
    return ""


def _sum_ms(rows: Sequence[LayerRun]) -> float:
    return sum(row.ms or 0.0 for row in rows)
