"""Recordings as a data set in YOLO layout: what was detected is proposed as labels, to be corrected and trained on."""

from __future__ import annotations

import math
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml  # type: ignore[import-untyped]

from edgeyolo.geometry.boxes import cxcywh_from_xyxy
from edgeyolo.live.record import Recording, list_recordings
from edgeyolo.spec.atomic import check_replaceable, replacing_folder
from edgeyolo.spec.errors import DataError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.serving import RecordingsOptions
from edgeyolo.spec.strict import load_json


@dataclass(frozen=True)
class MadeDataset:
    """What was written.

    Attributes:
        counts: split -> pictures.
        boxes: that are proposed.
    """

    index: Path
    counts: dict[str, int]
    boxes: int


def make_dataset(folder: Path, options: RecordingsOptions, progress: Progress = SILENT) -> MadeDataset:
    """Write the data set.

    Of each source the latest pictures are for validation: neighbours in time look alike, and would tell a validation
    what training has seen.

    Raises:
        DataError: no recordings, or of models with other classes. FormatError: a JSON that is none of ours.
        OutputError: `options.out` cannot be written, or holds something.
    """
    check_replaceable(options.out, (), sources=[folder])
    pictures = list_recordings(folder)
    if not pictures:
        raise DataError("has no recordings", where=folder, hint="Give the folder of `edgeyolo serve --record`")
    recordings = {picture: load_json(picture.with_suffix(".json"), Recording) for picture in pictures}
    names = _common_names(recordings)
    splits = _split(recordings, options.val)
    boxes = done = 0
    with replacing_folder(options.out, names=()) as work:
        for split, chosen in splits.items():
            for kind in ("images", "labels"):
                (work / kind / split).mkdir(parents=True)
            for picture in chosen:
                _copy(picture, work / "images" / split / picture.name)
                lines = _label(recordings[picture], names, options.score_threshold)
                (work / "labels" / split / f"{picture.stem}.txt").write_text("".join(lines), encoding="ascii")
                boxes, done = boxes + len(lines), done + 1
                progress.step("write", done, len(pictures))
        index = {"path": ".", **{split: f"images/{split}" for split in splits}, "names": dict(enumerate(names))}
        text = yaml.safe_dump(index, sort_keys=False, allow_unicode=True)
        (work / "data.yaml").write_text(text, encoding="utf-8")
    return MadeDataset(options.out / "data.yaml", {split: len(chosen) for split, chosen in splits.items()}, boxes)


def _common_names(recordings: dict[Path, Recording]) -> tuple[str, ...]:
    """The classes of all, which must be the same: a class id would mean two things."""
    first, *others = recordings.items()
    for picture, recording in others:
        if recording.class_names != first[1].class_names:
            raise DataError(
                f"is of {recording.model}, which knows other classes than {first[1].model} of {first[0].name}",
                where=picture,
                hint="Keep recordings of one set of classes in one folder",
            )
    return first[1].class_names


def _split(recordings: dict[Path, Recording], val: float) -> dict[str, list[Path]]:
    by_source: defaultdict[str, list[Path]] = defaultdict(list)
    for picture, recording in recordings.items():
        by_source[recording.source].append(picture)
    splits: dict[str, list[Path]] = {"train": [], "val": []}
    for pictures in by_source.values():
        count = min(math.ceil(val * len(pictures)), len(pictures) - 1)
        splits["train"] += pictures[: len(pictures) - count]
        splits["val"] += pictures[len(pictures) - count :]
    return {split: sorted(chosen) for split, chosen in splits.items() if chosen}


def _label(recording: Recording, names: tuple[str, ...], least: float) -> list[str]:
    """A line for each proposal: class, centre and size as parts of the picture."""
    height, width = recording.image_hw
    lines = []
    for found in recording.objects:
        if found.score < least or found.class_name not in names:
            continue
        box = np.clip(np.array(found.box_xyxy, np.float64) / [width, height, width, height], 0, 1)
        centre_size = " ".join(f"{value:.6f}" for value in cxcywh_from_xyxy(box[None])[0])
        lines.append(f"{names.index(found.class_name)} {centre_size}\n")
    return lines


def _copy(source: Path, place: Path) -> None:
    """A second name where the disk allows it, which takes no room."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
