"""Faults that the pictures themselves show: too few, copies, held-out ones, all dark, a channel that never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import read_bytes
from edgeyolo.data.thumbnail import Thumbnails
from edgeyolo.spec.calibration_finding import CalibrationFinding
from edgeyolo.spec.errors import ImageError

LEAST_PICTURES = 32
MOST_COPIES, FAR_TOO_MANY_COPIES = 0.1, 0.5  # of the pictures
MOST_HELD_OUT = 0.02  # of the held-out pictures, and of these
LEAST_BRIGHTNESS = 0.1  # of white
LEAST_CHANNEL_RANGE = 1.0  # standard deviation of a channel over all thumbnails, of 255

SAME_PICTURE = 1.5  # mean difference of two thumbnails, of 255: one picture, stored in two ways
_MOST_COMPARED = 1000  # files of a held-out split
_HEAD = 1 << 14  # bytes


def find_few(thumbnails: Thumbnails) -> list[CalibrationFinding]:
    """Fewer different pictures than hold the ranges of others."""
    count = count_distinct(thumbnails)
    if count >= LEAST_PICTURES:
        return []
    return [
        CalibrationFinding(
            fault="few-pictures",
            verdict="warned",
            value=count,
            limit=LEAST_PICTURES,
            what=f"{count} different pictures, fewer than {LEAST_PICTURES}: ranges hang on which ones they are",
            hint="Calibrate on 128 or more of the training split",
        )
    ]


def find_copies(thumbnails: Thumbnails) -> list[CalibrationFinding]:
    """Pictures that are there before."""
    copies = 1 - count_distinct(thumbnails) / len(thumbnails)
    if copies <= MOST_COPIES:
        return []
    return [
        CalibrationFinding(
            fault="duplicates",
            verdict="refused" if copies > FAR_TOO_MANY_COPIES else "warned",
            value=round(copies, 4),
            limit=MOST_COPIES,
            what=f"{copies:.0%} of the pictures are copies of others among them",
            hint="Leave the copies out; of a video, take frames that are apart",
        )
    ]


def find_held_out(
    hashes: Mapping[str, str],
    heads: set[str],
    thumbnails: Thumbnails,
    held_out: Sequence[Dataset],
    held_out_thumbnails: Thumbnails,
) -> list[CalibrationFinding]:
    """Pictures that scores are taken on: by the bytes of their files, and by how some of them look.

    Args:
        hashes: image id -> sha256 of each calibration picture's file.
        heads: of their files, as `head_of_file` gives them.
    """
    known, compared, found = set(hashes.values()), 0, 0
    for data in held_out:
        for index in _some(len(data), _MOST_COMPARED):
            compared += 1
            found += _is_known(data, index, heads, known)
    alike = int((_differences(held_out_thumbnails, thumbnails).amin(1) < SAME_PICTURE).sum())
    share = max(found / max(compared, 1), found / len(hashes), alike / max(len(held_out_thumbnails), 1))
    if share <= MOST_HELD_OUT:
        return []
    return [
        CalibrationFinding(
            fault="held-out",
            verdict="refused",
            value=round(share, 4),
            limit=MOST_HELD_OUT,
            what=f"{share:.0%} of the pictures are also in the splits that scores are taken on",
            hint="Calibrate on the training split alone, or scores will be better than the model is",
        )
    ]


def find_dark(thumbnails: Thumbnails, held_out_thumbnails: Thumbnails) -> list[CalibrationFinding]:
    """Pictures that show next to nothing; only warned of where those that scores are taken on are as dark."""
    brightness, expected = (
        float(np.median(some.mean((1, 2, 3)))) / 255 if len(some) else 1.0 for some in (thumbnails, held_out_thumbnails)
    )
    if brightness >= LEAST_BRIGHTNESS:
        return []
    return [
        CalibrationFinding(
            fault="dark",
            verdict="warned" if expected < LEAST_BRIGHTNESS else "refused",
            value=round(brightness, 4),
            limit=LEAST_BRIGHTNESS,
            what=f"half of the pictures are darker than {brightness:.1%} of white",
            hint="Take pictures of the hours that the camera works in, and check its exposure",
        )
    ]


def find_dead_inputs(thumbnails: Thumbnails) -> list[CalibrationFinding]:
    """Channels of the pictures that never change."""
    ranges = thumbnails.reshape(-1, 3).std(0)
    dead = [name for name, value in zip(("blue", "green", "red"), ranges, strict=True) if value < LEAST_CHANNEL_RANGE]
    if not dead:
        return []
    return [
        CalibrationFinding(
            fault="dead-channel",
            verdict="refused",
            value=round(float(ranges.min()), 4),
            limit=LEAST_CHANNEL_RANGE,
            what=f"the pictures' {' and '.join(dead)} never changes (standard deviation {ranges.min():.2f} of 255)",
            hint="Look at the camera or the program that wrote them",
        )
    ]


def count_distinct(thumbnails: Thumbnails) -> int:
    """Pictures that look like none before them."""
    return int(
        (_differences(thumbnails, thumbnails).tril(-1) + _ones_above(len(thumbnails)) >= SAME_PICTURE).all(1).sum()
    )


def head_of_file(data: Dataset, index: int) -> str:
    """Digest of the first bytes of a picture's file; "" where it cannot be read."""
    try:
        return hashlib.sha256(read_bytes(data.records[index].image_path, _HEAD)).hexdigest()
    except ImageError:
        return ""


def _is_known(data: Dataset, index: int, heads: set[str], known: set[str]) -> bool:
    """Whether a file is one of those: by its beginning first, as data sets are large."""
    if head_of_file(data, index) not in heads:
        return False
    return hashlib.sha256(read_bytes(data.records[index].image_path)).hexdigest() in known


def _differences(some: Thumbnails, others: Thumbnails) -> torch.Tensor:
    """(N, M) mean absolute differences, of 255."""
    rows, columns = (torch.from_numpy(one.reshape(len(one), -1).astype(np.float32)) for one in (some, others))
    return torch.cdist(rows, columns, p=1) / max(rows.shape[1], 1)


def _ones_above(count: int) -> torch.Tensor:
    """(N, N): what is never the same, on and above the diagonal."""
    return torch.full((count, count), 255.0).triu()


def _some(count: int, most: int) -> list[int]:
    """At most so many indices of a split, spread over it."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist() if count else []
