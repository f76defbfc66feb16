"""Pages of one file that load nothing from elsewhere: the templates of this folder, filled."""

from __future__ import annotations

import base64
from importlib import resources

from edgeyolo.spec.errors import MissingPackageError


def fill_template(name: str, *, needed_for: str, **values: object) -> str:
    """A template of this folder as HTML; text is escaped.

    Args:
        needed_for: the file that is being made.

    Raises:
        MissingPackageError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError:
        install = "pip install 'edgeyolo[report]'"
        raise MissingPackageError("jinja2", needed_for=needed_for, install=install) from None
    environment = Environment(
        loader=FunctionLoader(read_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"ap": ap_text, "size": _size_text, "fixed": _fixed_text, "ms": _ms_text}
    return environment.get_template(name).render(**values)


def embed(content: bytes) -> str:
    """A picture as base64, which is how the templates take it."""
    return base64.b64encode(content).decode()


def ap_text(value: float) -> str:
    """Percent with two decimals; a dash where undefined."""
    return "-" if value < 0 else f"{value:.2f}"


def _fixed_text(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals; a dash where there is none."""
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # no zero with a sign


def _ms_text(ms: float | None) -> str:
    """Milliseconds with the digits that say something; a dash where there are none."""
    return "-" if ms is None else f"{ms:.{0 if ms >= 100 else 1 if ms >= 10 else 2}f}"


def _size_text(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "-"
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def read_part(name: str) -> str:
    """A file of this folder, as it is."""
    return resources.files("edgeyolo.report").joinpath(name).read_text(encoding="utf-8")
