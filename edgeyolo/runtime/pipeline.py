"""Capture, detect and use frames at the same time: three threads, joined by queues that hold a few frames at most.

A file gives every frame. A live source gives its newest: what comes while the detector is busy is dropped and counted,
so that boxes are never older than the queue is long.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from edgeyolo.runtime.capture import FrameReader, Source, make_source
from edgeyolo.runtime.clock import Clock, Timing, spread_of
from edgeyolo.runtime.detector import Detector
from edgeyolo.spec.benchmark import Spread
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.errors import DataError

T = TypeVar("T")

QUEUE_FRAMES = 2
REMEMBERED = 10_000  # frames whose times make the summary, so that a stream of days needs no more memory
JOIN_S = 15.0  # more than a capture may take to notice that it is to end


@dataclass(frozen=True)
class StreamSummary:
    """What became of a stream.

    Attributes:
        captured: frames that the source gave.
        detected: of those, how many the detector saw.
        dropped: of those, how many a newer one replaced.
        reconnects: how often a live source came back.
        seconds: from the first frame to the latest result.
        fps: detected frames per second.
        latency: of `detect`: "pre", "network", "post" and "total"; and "delay", from capture to result. Of the last
            10,000 frames; empty without any.
    """

    captured: int
    detected: int
    dropped: int
    reconnects: int
    seconds: float
    fps: float
    latency: dict[str, Spread]


@dataclass(frozen=True)
class _Frame:
    index: int
    image: Image
    captured_s: float


@dataclass(frozen=True)
class _Result:
    frame: _Frame
    detections: Detections
    timing: Timing
    done_s: float


class StreamRun:
    """A detector at work on a source: an iterator, once, of (name, frame, detections), and a context manager.

    Its threads begin with the iteration and are gone when it ends, is broken off, or `close` returns. What goes wrong
    in one of them is raised by the iteration, after the frames that were finished before.

    Args:
        source: a video, an address or a camera's number; or any `Source`.
        every_frame: wait for the detector instead of dropping frames, also where the source is live.
        reconnect_s: for how long a live source that goes away is tried again, seconds; 0 for not at all.

    Attributes:
        index: of the latest frame given, counting those that were dropped.
        seconds: when that frame was captured, from the first one on; for a file, when it is shown.
        timing: of `detect` on that frame.

    Raises:
        DataError: it is not a source of frames, does not open, or (while iterating) went away.
    """

    def __init__(
        self,
        detector: Detector,
        source: Source | str | Path | int,
        *,
        every_frame: bool = False,
        reconnect_s: float = 10.0,
    ) -> None:
        self._stopping = threading.Event()
        self._reader = FrameReader(_as_source(source), reconnect_s=reconnect_s, wait=self._stopping.wait)
        self._detector = detector
        self._frames: _Queue[_Frame] = _Queue(newest_wins=self.live and not every_frame)
        self._results: _Queue[_Result] = _Queue(newest_wins=False)
        self._threads: list[threading.Thread] = []
        self._times: deque[tuple[Timing, float]] = deque(maxlen=REMEMBERED)
        self._captured = self._detected = 0
        self._first_s = self._last_s = 0.0
        self.index = -1
        self.seconds = 0.0
        self.timing = Timing(0.0, 0.0, 0.0)

    @property
    def live(self) -> bool:
        """Whether the source goes on by itself."""
        return self._reader.live

    @property
    def fps(self) -> float:
        """Frames per second that the source says it gives; 0 where it does not."""
        return self._reader.fps

    @property
    def stem(self) -> str:
        """What the frames' names begin with."""
        return self._reader.source.stem

    def __iter__(self) -> Iterator[tuple[str, Image, Detections]]:
        for work, name in ((self._capture, "capture"), (self._detect, "detect")):
            self._threads.append(threading.Thread(target=work, name=f"edgeyolo-{name}", daemon=True))
        try:
            for thread in self._threads:
                thread.start()
            while (result := self._results.get()) is not None:
                frame = result.frame
                self.index, self.timing = frame.index, result.timing
                self.seconds = (
                    frame.index / self.fps if self.fps and not self.live else frame.captured_s - self._first_s
                )
                yield self._reader.name(frame.index), frame.image, result.detections
        finally:
            self.close()

    def stop(self) -> None:
        """End the capture, from any thread or a signal handler; the iteration gives what is on its way, and ends."""
        self._stopping.set()
        self._frames.refuse()

    def close(self) -> None:
        """End everything and wait for the threads; closing twice is harmless."""
        self.stop()
        self._results.refuse()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(JOIN_S)

    def __enter__(self) -> StreamRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def summarise(self) -> StreamSummary:
        """Counts and times so far."""
        seconds = max(self._last_s - self._first_s, 0.0)
        times = list(self._times)
        latency: dict[str, Spread] = {}
        if times:
            latency = Clock([timing for timing, _ in times]).spread()
            latency["delay"] = spread_of([delay for _, delay in times])
        return StreamSummary(
            captured=self._captured,
            detected=self._detected,
            dropped=self._frames.dropped,
            reconnects=self._reader.reconnects,
            seconds=seconds,
            fps=self._detected / seconds if seconds else 0.0,
            latency=latency,
        )

    def _capture(self) -> None:
        """The first thread: source -> frames."""
        with self._frames.ending():
            for index, image in self._reader:
                now_s = time.perf_counter()
                if not self._captured:
                    self._first_s = now_s
                self._captured += 1
                if self._stopping.is_set() or not self._frames.put(_Frame(index, image, now_s)):
                    break

    def _detect(self) -> None:
        """The second thread: frames -> results. The detector is used by no other."""
        with self._results.ending():
            while (frame := self._frames.get()) is not None:
                detections = self._detector.detect(frame.image)
                self._last_s = time.perf_counter()
                self._detected += 1
                timing = self._detector.timing
                self._times.append((timing, (self._last_s - frame.captured_s) * 1e3))
                if not self._results.put(_Result(frame, detections, timing, self._last_s)):
                    break


def run_stream(
    detector: Detector,
    source: Source | str | Path | int,
    *,
    every_frame: bool = False,
    reconnect_s: float = 10.0,
) -> StreamRun:
    """Detect on a video, an address or a camera: `for name, frame, detections in run_stream(detector, 0): ...`.

    Arguments and errors as in `StreamRun`, which it returns. The detector is not closed.
    """
    return StreamRun(detector, source, every_frame=every_frame, reconnect_s=reconnect_s)


class _Queue(Generic[T]):
    """A bounded queue of one writer and one reader, either of which can end it.

    Attributes:
        dropped: items that newer ones replaced.
    """

    def __init__(self, *, newest_wins: bool) -> None:
        self.dropped = 0
        self._newest_wins = newest_wins
        self._items: deque[T] = deque()
        self._changed = threading.Condition()  # reentrant, so a signal handler may come in between
        self._ended = self._refused = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Add an item, waiting for room or making it; False where nobody wants it any more."""
        with self._changed:
            if self._newest_wins:
                self.dropped += len(self._items)
                self._items.clear()
            while len(self._items) >= QUEUE_FRAMES and not self._refused:
                self._changed.wait()
            if self._refused:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self) -> T | None:
        """The next item; None at the end. Raises what the writer ended with."""
        with self._changed:
            while not (self._items or self._ended or self._refused):
                self._changed.wait()
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            return None

    def refuse(self) -> None:
        """Take no more items; what is there can still be got."""
        self._refused = True
        with self._changed:
            self._changed.notify_all()

    def ending(self) -> _Ending:
        """Make the writer's `with` block, whose end ends the queue and whose exception goes to the reader."""
        return _Ending(self._end)

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()


class _Ending:
    """Hands the outcome of a `with` block, and its exception, to `end`."""

    def __init__(self, end: Callable[[BaseException | None], None]) -> None:
        self._end = end

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._end(error)
        return True


def _as_source(source: Source | str | Path | int) -> Source:
    if isinstance(source, Source):
        return source
    found = make_source(str(source))
    if found is None:
        raise DataError(
            "is no video, address or camera number", where=source, hint="Check the path; for pictures use detect"
        )
    return found
