"""Sizes as people write them: 320 or 384x640 pixels of a network's input, 4 or 1-8 pictures of an engine's call."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from edgeyolo.spec.errors import UsageError

LEAST_SIDE, MOST_BATCH = 32, 256


@dataclass(frozen=True)
class Form:
    """How a value is written that is a number or two.

    Attributes:
        metavar: for the help.
        text: what it must be, in words.
        parse: its shortest form from text; None where it is none.
    """

    metavar: str
    text: str
    parse: Callable[[str], int | str | None]


def _parse_image_size(written: str) -> int | str | None:
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", written)
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or min(sides) < LEAST_SIDE:
        return None
    return sides[0] if sides[0] == sides[-1] else f"{sides[0]}x{sides[1]}"


def _parse_batch(written: str) -> int | str | None:
    found = re.fullmatch(r"(1-)?(\d{1,3})", written)
    if found is None or not 1 <= int(found[2]) <= MOST_BATCH:
        return None
    return int(found[2]) if not found[1] or int(found[2]) == 1 else f"1-{int(found[2])}"


_IMAGE_SIZE = Form("SIDE|HEIGHTxWIDTH", f"320 or 384x640, say, sides of at least {LEAST_SIDE}", _parse_image_size)
_BATCH = Form("N|1-N", f"4 or 1-8, say, at most {MOST_BATCH}", _parse_batch)

ImageSize = Annotated[int | str, Meta(extra={"form": _IMAGE_SIZE})]
BatchSize = Annotated[int | str, Meta(extra={"form": _BATCH})]


def image_hw_of(size: int | str) -> tuple[int, int]:
    """Height and width of an `ImageSize`.

    Raises:
        UsageError: it is none.
    """
    sides = str(_parsed(size, _IMAGE_SIZE, "image_size")).split("x")
    return int(sides[0]), int(sides[-1])


def image_size_of(image_hw: tuple[int, int]) -> int | str:
    """The shortest way to write a height and width: 320 for a square, else such as 384x640."""
    height, width = image_hw
    return height if height == width else f"{height}x{width}"


def batch_of(size: int | str) -> tuple[int, int]:
    """Fewest and most pictures of a `BatchSize`: (4, 4) for 4, (1, 8) for 1-8.

    Raises:
        UsageError: it is none.
    """
    ends = str(_parsed(size, _BATCH, "batch")).split("-")
    return int(ends[0]), int(ends[-1])


def _parsed(size: int | str, form: Form, name: str) -> int | str:
    found = form.parse(str(size))
    if found is None:
        raise UsageError(f"{name} is {size}", hint=f"It must be {form.text}")
    return found
