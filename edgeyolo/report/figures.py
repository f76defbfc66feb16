"""What every plot of the reports shares: figures of matplotlib, one set of colours, PNG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

from edgeyolo.spec.errors import MissingPackageError

INK, FAINT, GREY, BLUE, GREEN, ORANGE = "#1f262d", "#e3e7eb", "#9aa4ae", "#3b7dd8", "#3c9a5f", "#d8823b"

_DPI = 110


def make_figure(width: float, height: float) -> Any:
    """An empty figure, inches.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        install = "pip install 'edgeyolo[report]'"
        raise MissingPackageError("matplotlib", needed_for="the plots of a report", install=install) from None
    return Figure(figsize=(width, height), layout="constrained")


def encode_png(figure: Any) -> bytes:
    """The figure as a PNG file."""
    return _encode(figure, "png")


def encode_svg(figure: Any) -> bytes:
    """The figure as an SVG file that needs no other: letters are shapes, so no font either."""
    return _encode(figure, "svg")


def _encode(figure: Any, form: str) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for a letter that the font lacks
        figure.savefig(buffer, format=form, dpi=_DPI)
    return buffer.getvalue()


def plain_names(names: Sequence[str]) -> list[str]:
    """Names that matplotlib takes as they are: no formulas, and none hidden for its first letter."""
    return [f" {name}".replace("$", r"\$") for name in names]


def tidy_axes(axes: Any) -> None:
    """A faint grid behind the data, no frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def epoch_span(epochs: Sequence[int]) -> tuple[float, float]:
    """Limits of an axis of epochs; one epoch stands in the middle."""
    first, last = min(epochs), max(epochs)
    return (first, last) if last > first else (first - 0.5, last + 0.5)


def epoch_marker(epochs: Sequence[int]) -> str:
    """The marker of a line over epochs: a dot where there is one only, which a line would not show."""
    return "o" if len(epochs) == 1 else ""
