"""A bundle opened as the flags of a verb say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.cli.console import Console
from edgeyolo.spec.detecting import Thresholds

if TYPE_CHECKING:
    from edgeyolo.runtime import Detector


def load_detector(
    console: Console, bundle: Path, thresholds: Thresholds, *, threads: int, lowest: float | None
) -> Detector:
    """The detector of a bundle; `lowest` is its score threshold where none is given, None for the bundle's own."""
    from edgeyolo.runtime import Detector

    given = thresholds.score_threshold
    with console.show_progress() as progress:
        return Detector.load(
            bundle,
            threads=threads,
            score_threshold=lowest if given is None else given,
            transfer=thresholds.transfer,
            iou_threshold=thresholds.iou_threshold,
            max_detections=thresholds.max_detections,
            nms=thresholds.nms,
            multi_label=thresholds.multi_label,
            progress=progress,
        )
