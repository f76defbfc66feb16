"""Sequences of pictures with ground truth, and tracks, in the text format of the MOT challenges.

A line of ground truth is `frame, id, left, top, width, height, counts, class, visibility`, one of tracks
`frame, id, left, top, width, height, score, ...`; frames count from 1.
"""

from __future__ import annotations

import configparser
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeyolo.runtime.stream import list_pictures
from edgeyolo.spec.detections import Int64
from edgeyolo.spec.errors import DataError
from edgeyolo.spec.tracking import DEFAULT_FRAME_RATE
from edgeyolo.spec.tracks import Float64

_LEAST_COLUMNS = 6


@dataclass(frozen=True)
class MotRows:
    """Boxes of a sequence, a row each.

    Attributes:
        frames, ids: (N,) from 1 on. boxes_xyxy: (N, 4) pixels.
        marks: (N,) seventh column: 0 in ground truth for what does not count, a score in tracks; 1 where it is missing.
        class_ids: (N,) eighth column, as the challenges number classes; 1, a pedestrian, where it is missing.
    """

    frames: Int64
    ids: Int64
    boxes_xyxy: Float64
    marks: Float64
    class_ids: Int64

    def take(self, rows: npt.NDArray[np.bool_]) -> MotRows:
        """Some of them."""
        return MotRows(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Sequence:
    """A folder with `gt/gt.txt`, and pictures in `img1` or where its `seqinfo.ini` says.

    Attributes:
        frame_rate: as `seqinfo.ini` says, or 30.
    """

    name: str
    folder: Path
    pictures: Path
    frame_rate: float

    @property
    def ground_truth(self) -> MotRows:
        """As its file has it; errors as in `read_rows`."""
        return read_rows(self.folder / "gt" / "gt.txt")

    def list_frames(self) -> list[Path]:
        """Its pictures, sorted by name.

        Raises:
            DataError: there are none.
        """
        found = list_pictures(self.pictures)
        if not found:
            raise DataError("has no pictures", where=self.pictures, hint="Put the frames of the sequence there")
        return found


def find_sequences(folder: Path) -> list[Sequence]:
    """The sequence that a folder is, or those in it, sorted by name.

    Raises:
        DataError: there is none, or a `seqinfo.ini` that cannot be read.
    """
    inside = [path.parent.parent for path in sorted(folder.glob("*/gt/gt.txt"))]
    found = [folder] if (folder / "gt" / "gt.txt").is_file() else inside
    if not found:
        hint = "Give a folder of sequences, each with gt/gt.txt and its pictures in img1"
        raise DataError("has no sequence with ground truth", where=folder, hint=hint)
    return [_open_sequence(path) for path in found]


def _open_sequence(folder: Path) -> Sequence:
    info = configparser.ConfigParser(interpolation=None)
    path = folder / "seqinfo.ini"
    try:
        info.read(path)
        frame_rate = info.getfloat("Sequence", "frameRate", fallback=DEFAULT_FRAME_RATE)
    except (configparser.Error, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"cannot be read ({error})", where=path, hint="Compare it with one of MOT17") from None
    pictures = folder / info.get("Sequence", "imDir", fallback="img1")
    return Sequence(folder.resolve().name, folder, pictures, frame_rate)


def read_rows(path: Path) -> MotRows:
    """Read a text file of ground truth or tracks.

    Raises:
        DataError: not there; a line of fewer than six numbers, a frame below 1, an empty box; an id twice in a frame.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=path, hint="It is a text file, a line per box") from None
    rows = [_parse_line(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    table = np.array(rows, np.float64).reshape(-1, 8)
    pairs, counts = np.unique(table[:, :2], axis=0, return_counts=True)
    if (counts > 1).any():
        frame, track_id = pairs[counts > 1][0].astype(int).tolist()
        raise DataError(f"has id {track_id} twice in frame {frame}", where=path, hint="An id is one object")
    left_top, size_wh = table[:, 2:4], table[:, 4:6]
    return MotRows(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        np.concatenate([left_top, left_top + size_wh], axis=1),
        table[:, 6],
        table[:, 7].astype(np.int64),
    )


def _parse_line(line: str, path: Path, number: int) -> list[float]:
    """Eight numbers; those that are missing are 1."""
    try:
        values = [float(part) for part in line.replace(",", " ").split()]
        if len(values) < _LEAST_COLUMNS or values[0] < 1 or min(values[4:6]) <= 0 or not np.isfinite(values).all():
            raise ValueError
    except ValueError:
        hint = "A line is: frame from 1, id, left, top, width, height, ..."
        raise DataError(f"is no box: {line[:60]}", where=f"{path}, line {number}", hint=hint) from None
    return [*values[:8], *[1.0] * (8 - len(values))]
