"""What `bench` measured, drawn: how the times are distributed, and the parts of a call as time goes by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeyolo.report.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    encode_png,
    encode_svg,
    make_figure,
    plain_names,
    tidy_axes,
)
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.benchmark import BenchRecord
from edgeyolo.spec.errors import UsageError

_FORMATS = {".png": encode_png, ".svg": encode_svg}
_COLOURS = {"pre": ORANGE, "network": BLUE, "post": GREEN}


def check_plot(path: Path) -> None:
    """Raise UsageError for a file of another kind than can be drawn."""
    if path.suffix.lower() not in _FORMATS:
        raise UsageError("is no .svg and no .png", where=path, hint="Name the plot so: --plot times.svg")


def write_plot(path: Path, records: Mapping[str, BenchRecord]) -> None:
    """A row of two plots for each record, by what it is called.

    Raises:
        UsageError: as `check_plot`. MissingPackageError: matplotlib is not installed. OutputError: cannot be written.
    """
    check_plot(path)
    figure = make_figure(10.0, 0.4 + 3.2 * len(records))
    rows = figure.subplots(len(records), 2, squeeze=False)
    for (name, record), (left, right) in zip(records.items(), rows, strict=True):
        _draw_distribution(left, record)
        _draw_parts(right, record)
        left.set_title(f"{plain_names([name])[0]}, {record.precision}, {record.device}", fontsize=10, loc="left")
    write_file(path, _FORMATS[path.suffix.lower()](figure))


def _draw_distribution(axes: Any, record: BenchRecord) -> None:
    """How many in a hundred calls take no longer than so many milliseconds."""
    for name, colour in (("network", BLUE), ("total", INK)):
        if name in record.percentiles_ms:
            axes.plot(record.percentiles_ms[name], range(101), color=colour, label=f"{name} of {record.runs} calls")
    if "total" in record.interval_ms:
        axes.axvspan(*record.interval_ms["total"], color=GREY, alpha=0.4, label="median, 95 %")
    if record.max_ms is not None:
        axes.axvline(record.max_ms, color=ORANGE, ls="--", label=f"limit, {record.max_ms:g} ms")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="minor", labelsize=7)
    axes.set_xlabel("ms", fontsize=9)
    axes.set_ylabel("of a hundred calls, no longer", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    tidy_axes(axes)


def _draw_parts(axes: Any, record: BenchRecord) -> None:
    """Medians of consecutive calls, one part on the other, and the slowest call of each stretch."""
    seconds = [part.seconds for part in record.slices]
    parts = {name: [getattr(part, f"{name}_ms") for part in record.slices] for name in _COLOURS}
    axes.stackplot(seconds, *parts.values(), labels=list(parts), colors=list(_COLOURS.values()), alpha=0.7)
    axes.scatter(seconds, [part.most_ms for part in record.slices], color=INK, s=6, label="slowest call")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds since the warm-up", fontsize=9)
    axes.set_ylabel("ms, medians", fontsize=9)
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    tidy_axes(axes)
