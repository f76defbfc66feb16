"""`edgeyolo detect`: pictures, a video, an address or a camera -> boxes."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeyolo.cli._detector import load_detector
from edgeyolo.cli._signals import stopping_on_signals
from edgeyolo.cli.console import Console
from edgeyolo.cli.flags import Shown
from edgeyolo.spec.detecting import DetectOptions, Thresholds
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.tracking import TrackSettings
from edgeyolo.spec.zones import Zones, load_zones

if TYPE_CHECKING:
    from edgeyolo.runtime import Detections, Detector
    from edgeyolo.runtime.capture import Source
    from edgeyolo.runtime.clock import Timing
    from edgeyolo.runtime.follow import Followers
    from edgeyolo.runtime.pipeline import StreamsRun
    from edgeyolo.runtime.pose import PoseEstimator
    from edgeyolo.runtime.video_file import VideoFile
    from edgeyolo.spec.detections import Image
    from edgeyolo.spec.errors import DataError
    from edgeyolo.spec.poses import Poses

PANEL = "On the board"


def detect(
    console: Console,
    bundle: Annotated[Path, typer.Argument(help="Bundle that `edgeyolo deploy` wrote.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, folders, patterns, videos, addresses (rtsp://...), camera numbers, pipelines (csi://0)."
        ),
    ],
    thresholds: Thresholds,
    options: DetectOptions,
    tracking: Annotated[TrackSettings, Shown()],
) -> None:
    """Find objects in pictures, videos and cameras.

    With --json, pictures give one object at the end; where there is a video or a camera, every frame gives one line as
    it is done, and each stream one line of counts and times after its last. Ctrl-C ends a stream and sums it up.
    Cameras that are given one after another share the engine, and so do videos where the bundle takes several pictures
    at once (deploy --batch); other videos follow each other. With --track, detections count from the low_threshold of
    the tracker on, where no --score-threshold is given; --set and --config set the tracker. With --pose, the joints of
    every object of the class person are found too, or of all objects where there is no such class.
    """
    from edgeyolo.runtime.appearance import Appearance
    from edgeyolo.runtime.follow import Followers

    lowest = tracking.low_threshold if options.track else None
    zones = _load_zones(options)
    detector = load_detector(console, bundle, thresholds, threads=options.threads, lowest=lowest)
    with contextlib.ExitStack() as closing:
        closing.enter_context(detector)
        estimator = _load_estimator(options, closing)
        followers = None
        if options.track is not None:
            embed = closing.enter_context(Appearance(options.appearance)) if options.appearance else None
            followers = Followers(options.track, tracking, detector.class_names, zones, embed=embed)
        tour = _Tour(detector, options, console, followers, estimator)
        tour.detect_all(sources)
    tour.conclude()


class _Tour:
    """One call of the verb: goes from source to source and keeps what the end is to tell."""

    def __init__(
        self,
        detector: Detector,
        options: DetectOptions,
        console: Console,
        followers: Followers | None,
        estimator: PoseEstimator | None,
    ) -> None:
        self._detector, self._options, self._console = detector, options, console
        self._followers, self._turn = followers, 0
        self._estimator = estimator
        self._records: list[dict[str, Any]] = []
        self._errors: list[dict[str, str]] = []
        self._names: set[str] = set()
        self._count = 0
        self._lines = False

    def detect_all(self, sources: list[str]) -> None:
        """Every source in turn, folders and patterns picture by picture; one that cannot be read is reported."""
        from edgeyolo.runtime.capture import make_source
        from edgeyolo.runtime.stream import list_pictures
        from edgeyolo.spec.errors import DataError

        single: list[str] = []
        for source in sources:
            single += [str(path) for path in list_pictures(Path(source))] or [source]
        self._check_save(single)
        found = [make_source(source) for source in single]
        self._lines = any(found)
        for texts, streams in self._list_turns(single, found):
            if self._is_enough():
                return
            if streams:
                if not self._detect_streams(texts, streams):
                    return
                continue
            try:
                self._detect_pictures(texts[0])
            except DataError as error:
                self._tell_failure(texts[0], error)

    def _list_turns(self, texts: list[str], found: list[Source | None]) -> Iterator[tuple[list[str], list[Source]]]:
        """What is gone through at the same time: streams that follow each other, where one goes on by itself or the
        bundle takes several pictures at once; everything else alone, pictures without a stream."""
        for is_stream, pairs in itertools.groupby(zip(texts, found, strict=True), lambda pair: pair[1] is not None):
            group = list(pairs)
            streams = [stream for _, stream in group if stream is not None]
            if is_stream and (self._detector.batch > 1 or any(stream.live for stream in streams)):
                yield [text for text, _ in group], streams
            else:
                yield from (([text], [stream] if stream is not None else []) for text, stream in group)

    def _check_save(self, sources: list[str]) -> None:
        """Raise OutputError where a source lies in the folder that pictures are saved to: it would be written over."""
        from edgeyolo.spec.errors import OutputError

        folder = self._options.save
        inside = [source for source in sources if folder and Path(source).resolve().parent == folder.resolve()]
        if inside and folder:
            raise OutputError(f"holds {inside[0]}, which is read", where=folder, hint="Choose another folder to --save")

    def conclude(self) -> None:
        """What is said once, at the end."""
        if self._options.save is not None and self._names:
            self._console.say(f"Wrote {len(self._names)} files into {self._options.save}")
        if self._errors:
            self._console.warn(f"{len(self._errors)} of {self._count + len(self._errors)} could not be read")
        if not self._lines:
            self._console.show_json({"pictures": self._records, "errors": self._errors})

    def _is_enough(self) -> bool:
        return 0 < self._options.frames <= self._count

    def _detect_pictures(self, source: str) -> None:
        from edgeyolo.runtime.stream import open_stream

        sequence = str(Path(source).parent)
        for name, image in open_stream(source):
            if self._is_enough():
                return
            detections = self._detector.detect(image)
            record = self._make_record(name, image, detections, self._detector.timing, sequence)
            poses = self._add_poses(record, image, detections)
            self._tell(record)
            if self._options.save is not None:
                drawn = self._draw(image, detections, poses, sequence)
                _write_picture(self._options.save / _free_name(name, self._names), drawn)

    def _detect_streams(self, texts: list[str], sources: list[Source]) -> bool:
        """Frames as they come, into a video for each source; False where a signal asked for the end."""
        from edgeyolo.runtime.pipeline import StreamsRun

        options = self._options
        self._turn += 1
        run = StreamsRun(
            self._detector,
            sources,
            every_frame=options.every_frame,
            reconnect_s=options.reconnect,
            max_wait_ms=options.max_wait_ms,
        )
        told = self._tell_failures(texts, run, set())
        with contextlib.ExitStack() as ending:
            ending.callback(self._tell_failures, texts, run, told)
            ending.callback(self._tell_summaries, run)
            videos = self._open_videos(run, options.save, ending) if options.save is not None else {}
            signals = ending.enter_context(stopping_on_signals(run.stop))
            for name, image, detections in ending.enter_context(run):
                feed = run.feeds[run.source]
                record = self._make_record(name, image, detections, run.timing, (self._turn, run.source), feed.fps)
                poses = self._add_poses(record, image, detections)
                self._tell(record | {"seconds": round(run.seconds, 3)})
                if videos:
                    drawn = self._draw(image, detections, poses, (self._turn, run.source))
                    videos[run.source].write(drawn, run.seconds)
                if self._is_enough():
                    break
            return not signals

    def _make_record(
        self, name: str, image: Image, detections: Detections, timing: Timing, source: Hashable, frame_rate: float = 0.0
    ) -> dict[str, Any]:
        """What is told of a frame, which is the next one of its sequence where objects are followed."""
        names = self._detector.class_names
        record = {
            "picture": name,
            "image_hw": [image.shape[0], image.shape[1]],
            "latency_ms": round(timing.total_ms, 3),
        }
        if self._followers is None:
            return record | {"objects": detections.as_dicts(names)}
        follower = self._followers.of(source, frame_rate)
        record |= {"objects": follower.update(detections, image).as_dicts(names)}
        return record if follower.counts is None else record | {"zones": follower.counts}

    def _add_poses(self, record: dict[str, Any], image: Image, detections: Detections) -> Poses | None:
        """Put the joints of the persons among the objects into the record of their picture; None where not asked."""
        from edgeyolo.runtime.pose import persons_among

        if self._estimator is None:
            return None
        persons = persons_among(detections, self._detector.class_names)
        poses = self._estimator.estimate(image, persons)
        boxes = [[round(float(side), 2) for side in box] for box in persons.boxes_xyxy]
        found = poses.as_dicts(self._estimator.joint_names)
        record["poses"] = [{"box_xyxy": box} | pose for box, pose in zip(boxes, found, strict=True)]
        record["pose_ms"] = round(self._estimator.timing.total_ms, 3) if boxes else 0.0
        return poses

    def _draw(self, image: Image, detections: Detections, poses: Poses | None, source: Hashable) -> Image:
        from edgeyolo.runtime.draw import draw_detections
        from edgeyolo.runtime.draw_poses import draw_poses

        if self._followers is None:
            drawn = draw_detections(image, detections, self._detector.class_names)
        else:
            drawn = self._followers.of(source).draw(image)
        if poses is None or self._estimator is None:
            return drawn
        return draw_poses(drawn, poses, self._estimator.skeleton)

    def _open_videos(self, run: StreamsRun, folder: Path, ending: contextlib.ExitStack) -> dict[int, VideoFile]:
        from edgeyolo.runtime.video_file import VideoFile

        return {
            position: ending.enter_context(
                VideoFile(folder / _free_name(f"{feed.stem}.mp4", self._names), fps=feed.fps)
            )
            for position, feed in run.feeds.items()
        }

    def _tell(self, record: dict[str, Any]) -> None:
        self._count += 1
        self._console.say(_summarise(record))
        if self._lines:
            self._console.show_json_line(record)
        else:
            self._records.append(record)

    def _tell_failures(self, texts: list[str], run: StreamsRun, told: set[int]) -> set[int]:
        """Of sources that nobody was told of yet; gives those that have been told of by now."""
        for position in sorted(run.errors.keys() - told):
            self._tell_failure(texts[position], run.errors[position])
        return told | run.errors.keys()

    def _tell_failure(self, source: str, error: DataError) -> None:
        from edgeyolo.runtime.capture import show_address

        self._console.fail(error)
        told = {"source": show_address(source), "what": error.what, "hint": error.hint}
        self._errors.append(told)
        if self._lines:
            self._console.show_json_line({"error": told})

    def _tell_summaries(self, run: StreamsRun) -> None:
        for position, summary in run.summaries().items():
            stem = run.feeds[position].stem
            times = ", ".join(f"{part} {spread.median_ms:.1f}" for part, spread in summary.latency.items())
            self._console.say(
                f"{stem}: {summary.detected} of {summary.captured} frames in {summary.seconds:.1f} s "
                f"({summary.fps:.1f} a second), {summary.dropped} dropped, {summary.reconnects} times reconnected; "
                f"{summary.batch:.1f} at a time, median ms: {times or 'none'}"
            )
            self._console.show_json_line({"stream": stem, "summary": asdict(summary)})


def _load_estimator(options: DetectOptions, closing: contextlib.ExitStack) -> PoseEstimator | None:
    from edgeyolo.runtime.pose import PoseEstimator

    if options.pose is None:
        if options.flip_test:
            raise UsageError("flip_test is of joints", where="--flip-test", hint="Give --pose BUNDLE too")
        return None
    estimator = PoseEstimator.load(options.pose, threads=options.threads, flip_test=options.flip_test)
    return closing.enter_context(estimator)


def _load_zones(options: DetectOptions) -> Zones | None:
    """Raise UsageError where there is nothing to be followed."""
    if options.track is None and (options.zones or options.appearance):
        where = "--zones" if options.zones else "--appearance"
        raise UsageError("is for what is followed", where=where, hint="Give --track bytetrack or botsort too")
    return load_zones(options.zones) if options.zones else None


def _summarise(record: dict[str, Any]) -> str:
    """One line, such as "cells.jpg: 3 RBC, 1 WBC (12.1 ms)"."""
    counts = Counter(found["class"] for found in record["objects"])
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
    return f"{record['picture']}: {listed} ({record['latency_ms']:.1f} ms)"


def _free_name(name: str, taken: set[str]) -> str:
    """A file name that no earlier picture has; what has no suffix of a picture or of ours becomes a JPEG."""
    from edgeyolo.runtime.stream import PICTURE_SUFFIXES

    path = Path(name if Path(name).suffix.lower() in {*PICTURE_SUFFIXES, ".mp4"} else f"{name}.jpg")
    free, number = path.name, 2
    while free in taken:
        free, number = f"{path.stem}-{number}{path.suffix}", number + 1
    taken.add(free)
    return free


def _write_picture(path: Path, image: Image) -> None:
    import cv2

    from edgeyolo.spec.atomic import write_file

    write_file(path, cv2.imencode(path.suffix, image)[1].tobytes())
