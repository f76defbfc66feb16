"""`evaluate --track`: a bundle and a tracker, or tracks in files -> MOTA, IDF1 and HOTA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.track_score import TrackScore
from edgeyolo.spec.tracking import TrackMethod, TrackSettings
from edgeyolo.verbs._evaluate import artefact_name

if TYPE_CHECKING:
    from edgeyolo.evaluation.mot_files import MotRows, Sequence
    from edgeyolo.runtime import Detector

DEFAULT_SETTINGS = TrackSettings()


def evaluate_tracks(
    source: Path,
    data: Path,
    method: TrackMethod,
    *,
    settings: TrackSettings = DEFAULT_SETTINGS,
    classes: tuple[str, ...] = (),
    threads: int = 0,
    progress: Progress = SILENT,
) -> TrackScore:
    """Follow the objects of every sequence of `data` and compare with its ground truth.

    Args:
        source: a bundle; detections count from the tracker's `low_threshold` on.
        data: a sequence in the layout of the MOT challenges, or a folder of them.
        classes: names of those that are followed; all if empty.
        threads: engine threads, 0 for the bundle's own number.

    Raises:
        DataError: no sequences, or files that cannot be read. BundleError, MissingPackageError, EngineCrashError,
        BackendError: the bundle cannot be run on this computer. UsageError: a setting out of its range, or not a
        bundle. UnknownNameError: a class that the bundle does not know.
    """
    from edgeyolo.runtime import Detector

    if not (source.suffix == ".eyb" or (source / "manifest.json").is_file()):
        raise UsageError("is not a bundle", where=source, hint="Tracks are of what ships: deploy it first")
    with Detector.load(source, threads=threads, score_threshold=settings.low_threshold, progress=progress) as detector:
        follow = functools.partial(_follow, detector, method, settings, _class_ids(detector, classes), progress)
        name = artefact_name(detector.manifest.artefact) if detector.manifest else detector.spec.name
        return _score(data, follow, artefact=name, method=method)


def score_track_files(folder: Path, data: Path) -> TrackScore:
    """Compare tracks that are written already, `<sequence>.txt` for each sequence of `data`; errors as above."""
    from edgeyolo.evaluation.mot_files import read_rows

    return _score(data, lambda sequence: read_rows(folder / f"{sequence.name}.txt"), artefact="files", method="files")


def _score(data: Path, follow: Callable[[Sequence], MotRows], *, artefact: str, method: str) -> TrackScore:
    from edgeyolo.evaluation.mot_files import find_sequences
    from edgeyolo.evaluation.tracking_scores import count_tracks

    counts = {sequence.name: count_tracks(sequence.ground_truth, follow(sequence)) for sequence in find_sequences(data)}
    return TrackScore(
        artefact=artefact,
        method=method,
        data=data.resolve().name,
        overall=functools.reduce(lambda one, other: one + other, counts.values()).score(),
        per_sequence={name: count.score() for name, count in counts.items()},
    )


def _follow(
    detector: Detector,
    method: TrackMethod,
    settings: TrackSettings,
    class_ids: tuple[int, ...],
    progress: Progress,
    sequence: Sequence,
) -> MotRows:
    """Every frame of a sequence through the detector and a tracker of its own."""
    import numpy as np

    from edgeyolo.evaluation.mot_files import MotRows
    from edgeyolo.runtime import Detections
    from edgeyolo.runtime.stream import open_stream
    from edgeyolo.tracking import Tracker

    tracker = Tracker(method, settings, frame_rate=sequence.frame_rate)
    found = []
    paths = sequence.list_frames()
    for done, path in enumerate(paths, 1):
        _, image = next(iter(open_stream(path)))
        detections = detector.detect(image)
        wanted = np.isin(detections.class_ids, class_ids)
        detections = Detections(detections.boxes_xyxy[wanted], detections.scores[wanted], detections.class_ids[wanted])
        found.append(tracker.update(detections, image))
        progress.step(f"follow {sequence.name}", done, len(paths))
    frames = np.repeat(np.arange(1, len(paths) + 1), [len(tracks) for tracks in found])
    return MotRows(
        frames,
        np.concatenate([tracks.track_ids for tracks in found]),
        np.concatenate([tracks.boxes_xyxy for tracks in found]),
        np.concatenate([tracks.scores for tracks in found]),
        np.ones(len(frames), np.int64),
    )


def _class_ids(detector: Detector, classes: tuple[str, ...]) -> tuple[int, ...]:
    for name in classes:
        if name not in detector.class_names:
            raise UnknownNameError("class", name, detector.class_names)
    return tuple(i for i, name in enumerate(detector.class_names) if not classes or name in classes)
