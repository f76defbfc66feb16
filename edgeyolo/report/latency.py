"""Ranges of milliseconds, one bar for each board."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeyolo.report.figures import BLUE, INK, encode_png, make_figure, plain_names, tidy_axes
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.latency import Estimate


def write_ranges(path: Path, estimates: Sequence[Estimate], *, title: str) -> None:
    """A PNG, the fastest board on top.

    Raises:
        MissingPackageError: matplotlib is not installed. OutputError: the picture cannot be written.
    """
    figure = make_figure(8.0, 1.2 + 0.32 * len(estimates))
    axes = figure.subplots()
    places = range(len(estimates))
    lows, middles, highs = ([getattr(one, f"{name}_ms") for one in estimates] for name in ("low", "middle", "high"))
    axes.hlines(places, lows, highs, color=BLUE, lw=6, alpha=0.4)
    axes.scatter(middles, places, color=INK, s=14, zorder=3)
    axes.set_yticks(places, plain_names([one.title for one in estimates]), fontsize=9)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    least = min(one.coverage for one in estimates)
    axes.set_xlabel(f"ms for one picture, the network alone: ranges that hold {least:.0%} or more", fontsize=9)
    axes.set_title(f"{plain_names([title])[0]}, estimated", fontsize=10, loc="left")
    tidy_axes(axes)
    write_file(path, encode_png(figure))
