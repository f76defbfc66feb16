"""Options of `detect` and `bench`: what counts as an object, and how a bundle is run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgeyolo.spec.settings import Count, NotNegative, Positive, Share, WholeNumber
from edgeyolo.spec.tracking import TrackMethod

Nms = Literal["greedy", "diou", "matrix"]
DEFAULT_NMS: Nms = "greedy"
DEFAULT_SCORE_THRESHOLD = 0.25


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which predictions a detector reports.

    Attributes:
        score_threshold: objects with a lower score are not reported; the one that the bundle was deployed for if not
            given, or 0.25.
        transfer: where the bundle is int8 and knows what stands for a threshold of its float model, take
            score_threshold for the latter; off, it is of the bundle's own scores.
        iou_threshold: of two boxes of a class that overlap more, only the better one is kept.
        max_detections: objects per picture, the best ones, out of 30 times as many candidates, or 4096
            if that is more.
        nms: how several boxes of one object become one: greedy removes by overlap, diou by overlap and distance of the
            centres, matrix lowers scores instead and needs no iou_threshold; the bundle's own if not given, or greedy.
        multi_label: let one prediction stand for several classes, as mAP is measured.
    """

    score_threshold: Share | None = None
    transfer: bool = True
    iou_threshold: Share = 0.45
    max_detections: Count = 300
    nms: Nms | None = None
    multi_label: bool = False

    @property
    def least_score(self) -> float:
        """`score_threshold`, or the default."""
        return DEFAULT_SCORE_THRESHOLD if self.score_threshold is None else self.score_threshold


class DetectOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How `detect` goes through its sources.

    Attributes:
        save: folder for pictures, and a video (.mp4) of each stream, with the boxes drawn.
        track: follow objects from frame to frame, and give each an id: bytetrack, or botsort, which also follows the
            movement of the camera. Pictures of one folder are the frames of one sequence.
        pose: bundle of a network that finds joints, to look at every person that the detector finds.
        flip_test: with pose, look at mirror images too: better joints for twice the time.
        zones: with track, a TOML file of lines and areas to count in.
        appearance: with botsort, the bundle of a small network whose output says what an object looks like.
        threads: threads of the engine, 0 for the bundle's number or fewer, as other work leaves cores.
        frames: stop after so many pictures, 0 for all there are.
        every_frame: drop no frame of a live source, however late the boxes come.
        reconnect: seconds for which a live source that goes away is tried again, 0 for none.
        max_wait_ms: milliseconds that a frame waits for those of other sources, to be computed together with them.
    """

    save: Path | None = None
    track: TrackMethod | None = None
    pose: Path | None = None
    flip_test: bool = False
    zones: Path | None = None
    appearance: Path | None = None
    threads: WholeNumber = 0
    frames: WholeNumber = 0
    every_frame: bool = False
    reconnect: NotNegative = 10.0
    max_wait_ms: NotNegative = 10.0


class BenchOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `bench` times, and whether it tunes first.

    Attributes:
        image: picture to time it on, noise if not given; with tune, one such as the board will see.
        runs: calls that are timed, or rounds of compare; 0 for as many as make the interval tight.
        width: how wide the interval of the median, or of compare's ratio, may be for the calls to end, as a share.
        seconds: after which they end all the same; compare has as long again.
        warmup: calls before, that are not; with runs 0 they go on until the number of threads has settled.
        threads: threads of the engine, 0 for the bundle's number or fewer, as other work leaves cores.
        tune: first find the fastest way to run it here, and write it into the bundle; needs data, or an image.
        data: with tune, labelled pictures to hold max_drop on.
        split: split of data; its validation split if not given.
        max_drop: with data, AP points that tuning may cost.
        max_ms: most milliseconds of a whole call, in the median and in the 90th percentile; exit code 4 where it is
            more.
        minutes: keep it busy for so long, in place of runs, and show each minute by itself, 0 for not.
        compare: another bundle, run in turns with the first; gives the ratio of their times and its interval.
        layers: say of each layer in which precision it runs, and how long it takes.
        csv: file for the figures, a row per bundle and board.
        plot: picture of the times: how they are distributed, and the parts of a call as time goes by (.svg or .png).
    """

    image: Path | None = None
    runs: WholeNumber = 0
    width: Positive = 0.02
    seconds: Positive = 20.0
    warmup: WholeNumber = 10
    threads: WholeNumber = 0
    tune: bool = False
    data: Path | None = None
    split: str | None = None
    max_drop: NotNegative = 0.3
    max_ms: Positive | None = None
    minutes: NotNegative = 0.0
    compare: Path | None = None
    layers: bool = False
    csv: Path | None = None
    plot: Path | None = None
