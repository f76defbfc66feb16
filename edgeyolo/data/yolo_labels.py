"""Labels in YOLO's text: one normalised box a line.

A line is `class centre_x centre_y width height`, or `class x1 y1 x2 y2 x3 y3 ...` (a polygon, of which the box is
taken).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from edgeyolo.data.assembly import RawPictures
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import ImageError

_PLAIN = b"0123456789.-+ \t\r\n"
_THREADS = 4
_AHEAD = 16  # parts
_Part = TypeVar("_Part")


class Labelled(NamedTuple):
    """A picture and the text of its labels.

    Attributes:
        image_hw: its size, or why it has none.
        label_path: for findings.
        text: of the label file, or why it cannot be read.
    """

    image_path: str
    image_id: str
    image_hw: tuple[int, int] | ImageError
    label_path: str
    text: bytes | OSError


def read_ahead(read: Callable[[_Part], list[Labelled]], parts: Iterable[_Part]) -> Iterator[list[Labelled]]:
    """What is read of each part, in their order.

    Where reading a part has mostly waited for the disk, threads read the next ones ahead. Files that are in memory are
    read sooner by one, for threads of Python get into one another's way.
    """
    left = iter(parts)
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in left:
            wall, busy = time.perf_counter(), time.thread_time()
            files = read(part)
            wall, busy = time.perf_counter() - wall, time.thread_time() - busy
            yield files
            if wall > 2 * busy:
                yield from pool.map(read, itertools.islice(left, _AHEAD))


def make_block(pictures: Iterable[Labelled], class_names: Sequence[str], log: ProblemLog) -> RawPictures:
    """Pictures and the boxes of their labels, in pixels; what cannot be used is written to `log`."""
    block = RawPictures()
    ids = {str(i).encode(): i for i in range(len(class_names))}
    centres: list[float] = []  # x, y, width, height of one box after the other
    corners: dict[int, tuple[float, ...]] = {}  # the boxes that are not in `centres`, by their place
    for image_path, image_id, image_hw, label_path, text in pictures:
        if isinstance(image_hw, ImageError):
            log.add("unreadable picture", image_path, image_hw.what)
            continue
        plain = _plain_lines(text, ids)
        if plain is None:
            lines = list(_any_lines(text, label_path, class_names, log))
            corners.update(enumerate((box for _, box in lines), start=len(centres) // 4))
            plain = [class_id for class_id, _ in lines], [0.0] * 4 * len(lines)
        block.add_picture(image_path, image_id, image_hw, label_path, class_ids=plain[0])
        centres += plain[1]
    xy, wh = np.hsplit(np.array(centres).reshape(-1, 4), 2)
    boxes_xyxy = np.hstack([xy - wh / 2, xy + wh / 2])
    boxes_xyxy[list(corners)] = np.array([*corners.values()]).reshape(-1, 4)
    sizes_wh = np.array(block.sizes_hw).reshape(-1, 2)[:, ::-1]
    block.boxes_xyxy = boxes_xyxy * np.tile(np.repeat(sizes_wh, block.counts, axis=0), 2)
    return block


def _plain_lines(text: bytes | OSError, ids: dict[bytes, int]) -> tuple[list[int], list[float]] | None:
    """Classes and centres, where each line is a known class and a box in plain digits, as nearly all are; else None."""
    if isinstance(text, OSError) or text.translate(None, _PLAIN):
        return None
    lines = [line.split() for line in text.splitlines()]
    if any(len(words) != 5 for words in lines):
        return None
    try:
        return [ids[words[0]] for words in lines], [float(word) for words in lines for word in words[1:]]
    except (ValueError, KeyError):
        return None


def _any_lines(
    text: bytes | OSError, label_path: str, class_names: Sequence[str], log: ProblemLog
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """What the lines say that can be used; the others are written to `log`."""
    try:
        if isinstance(text, OSError):
            raise text
        lines = text.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        log.add("bad label", label_path, f"cannot be read as text ({error})")
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            class_id, box_xyxy = _parse_line(line)
        except ValueError as error:
            log.add("bad label", label_path, f"line {number}: {error}")
            continue
        if 0 <= class_id < len(class_names):
            yield class_id, box_xyxy
        else:
            log.add("unknown class", label_path, f"line {number}: class {class_id} of {len(class_names)}")


def _parse_line(line: str) -> tuple[int, tuple[float, float, float, float]]:
    """Class id and normalised left, top, right, bottom."""
    values = [float(word) for word in line.split()]
    if not np.isfinite(values).all():
        raise ValueError(f"a value is not a finite number in '{line[:60]}'")
    class_id, *place = values
    if class_id != int(class_id):
        raise ValueError(f"class {class_id} is not a whole number")
    if len(place) == 4:
        x, y, w, h = place
        return int(class_id), (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    if len(place) >= 6 and len(place) % 2 == 0:
        return int(class_id), (min(place[::2]), min(place[1::2]), max(place[::2]), max(place[1::2]))
    raise ValueError(f"{len(values)} values, 5 (a box) or a polygon wanted in '{line[:60]}'")
