"""Capture, detect and use frames at the same time: a thread for each source and one for the detector, joined by queues
that hold a few frames at most.

A file gives every frame. A live source gives its newest: what comes while the detector is busy is dropped and counted,
so that boxes are never older than the queue is long. Several sources share the detector in batches, as `gather` says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from edgeyolo.runtime.capture import FrameReader, Source, make_source
from edgeyolo.runtime.clock import Timing
from edgeyolo.runtime.detector import Detector
from edgeyolo.runtime.feed import Feed, StreamCounts, StreamSummary
from edgeyolo.runtime.gather import QUEUE_FRAMES, Frame, Gather
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.errors import DataError

logger = logging.getLogger(__name__)

T = TypeVar("T")

JOIN_S = 15.0  # more than a capture may take to notice that it is to end
DEFAULT_WAIT_MS = 10.0


@dataclass(frozen=True)
class _Result:
    frame: Frame
    detections: Detections
    timing: Timing


class StreamsRun:
    """A detector at work on several sources: an iterator, once, of (name, frame, detections), and a context manager.

    Its threads begin with the iteration and are gone when it ends, is broken off, or `close` returns. Frames of a
    source come in their order. A source that fails ends alone and is kept in `errors`; what goes wrong in the detector
    is raised by the iteration, after the frames that were finished before.

    Args:
        sources: each a video, an address or a camera's number; or any `Source`. They are opened at once.
        every_frame: wait for the detector instead of dropping frames, also where a source is live.
        reconnect_s: for how long a live source that goes away is tried again, seconds; 0 for not at all.
        max_wait_ms: how long a frame waits for those of other sources, to be computed together with them.
        patient: take live sources that do not open for ones that went away, and will be tried again.

    Attributes:
        feeds: the sources that did open, by their position in `sources`.
        errors: what sources failed with, those too that did not open, by their position.
        source: position of the source of the latest frame given.
        index: of that frame, counting those of its source that were dropped.
        seconds: when that frame was captured, from its source's first one on; for a file, when it is shown.
        timing: of the detector's call that the frame was in.
    """

    def __init__(
        self,
        detector: Detector,
        sources: Sequence[Source | str | Path | int],
        *,
        every_frame: bool = False,
        reconnect_s: float = 10.0,
        max_wait_ms: float = DEFAULT_WAIT_MS,
        patient: bool = False,
    ) -> None:
        self._stopping = threading.Event()
        self._detector = detector
        self.errors: dict[int, DataError] = {}
        self.feeds = self._open(sources, reconnect_s, patient)
        newest_wins = [feed.live and not every_frame for feed in self.feeds.values()]
        self._positions = list(self.feeds)  # of the feeds, as the queues count them
        self._frames = Gather(newest_wins, most=detector.batch, wait_s=max_wait_ms / 1e3)
        self._results: _Queue[_Result] = _Queue(max(QUEUE_FRAMES, detector.batch))
        self._threads: list[threading.Thread] = []
        self.source = self.index = -1
        self.seconds = 0.0
        self.timing = Timing(0.0, 0.0, 0.0)

    def __iter__(self) -> Iterator[tuple[str, Image, Detections]]:
        for number in range(len(self._positions)):
            self._threads.append(
                threading.Thread(target=self._capture, args=(number,), name="edgeyolo-capture", daemon=True)
            )
        self._threads.append(threading.Thread(target=self._detect, name="edgeyolo-detect", daemon=True))
        try:
            for thread in self._threads:
                thread.start()
            while (result := self._results.get()) is not None:
                frame = result.frame
                self.source, self.index, self.timing = self._positions[frame.source], frame.index, result.timing
                feed = self.feeds[self.source]
                self.seconds = feed.seconds(frame)
                yield feed.reader.name(frame.index), frame.image, result.detections
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

    def __enter__(self) -> StreamsRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def summaries(self) -> dict[int, StreamSummary]:
        """Counts and times so far of each source that did open."""
        return {
            position: self.feeds[position].summarise(dropped)
            for position, dropped in zip(self._positions, self._frames.dropped, strict=True)
        }

    def counts(self) -> dict[int, StreamCounts]:
        """Of each source that did open, what became of its frames so far; cheaper than `summaries`."""
        return {
            position: self.feeds[position].counts(dropped)
            for position, dropped in zip(self._positions, self._frames.dropped, strict=True)
        }

    def _open(self, sources: Sequence[Source | str | Path | int], reconnect_s: float, patient: bool) -> dict[int, Feed]:
        """Those that do open; all at the same time, for an address that does not answer takes its time."""
        taken: dict[str, int] = {}

        def read(position: int) -> FrameReader | None:
            try:
                source = _as_source(sources[position])
                return FrameReader(source, reconnect_s=reconnect_s, wait=self._stopping.wait, patient=patient)
            except DataError as error:
                self.errors[position] = error
                return None

        with ThreadPoolExecutor(max(1, len(sources)), "edgeyolo-open") as pool:
            readers = list(pool.map(read, range(len(sources))))
        for reader in filter(None, readers):
            number = taken[reader.source.stem] = taken.get(reader.source.stem, 0) + 1
            if number > 1:
                reader.source = replace(reader.source, stem=f"{reader.source.stem}-{number}")
        return {position: Feed(reader) for position, reader in enumerate(readers) if reader is not None}

    def _capture(self, number: int) -> None:
        """A thread for each source: its frames into its queue."""
        position = self._positions[number]
        feed = self.feeds[position]
        try:
            for index, image in feed.reader:
                now_s = time.perf_counter()
                if not feed.captured:
                    feed.first_s = now_s
                feed.captured += 1
                feed.captured_s = now_s
                if self._stopping.is_set() or not self._frames.put(Frame(number, index, image, now_s)):
                    break
        except DataError as error:
            if len(self.feeds) > 1:
                logger.error("%s", error)
            self.errors[position] = error
        except BaseException as error:
            self._frames.fail(error)
        finally:
            self._frames.end(number)

    def _detect(self) -> None:
        """The last thread: batches -> results. The detector is used by no other."""
        with self._results.ending():
            while frames := self._frames.take():
                found = self._detector.detect_batch([frame.image for frame in frames])
                timing = self._detector.timing
                for frame, detections in zip(frames, found, strict=True):
                    self.feeds[self._positions[frame.source]].count(frame, timing, len(frames))
                    if not self._results.put(_Result(frame, detections, timing)):
                        return


class StreamRun(StreamsRun):
    """A detector at work on one source; arguments and attributes as in `StreamsRun`.

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
        super().__init__(detector, [source], every_frame=every_frame, reconnect_s=reconnect_s)
        self._raise()

    @property
    def live(self) -> bool:
        """Whether the source goes on by itself."""
        return self.feeds[0].live

    @property
    def fps(self) -> float:
        """Frames per second that the source says it gives; 0 where it does not."""
        return self.feeds[0].fps

    @property
    def stem(self) -> str:
        """What the frames' names begin with."""
        return self.feeds[0].stem

    def __iter__(self) -> Iterator[tuple[str, Image, Detections]]:
        yield from super().__iter__()
        self._raise()

    def __enter__(self) -> StreamRun:
        return self

    def summarise(self) -> StreamSummary:
        """Counts and times so far."""
        return self.summaries()[0]

    def _raise(self) -> None:
        if self.errors:
            raise self.errors[0]


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


def run_streams(
    detector: Detector,
    sources: Sequence[Source | str | Path | int],
    *,
    every_frame: bool = False,
    reconnect_s: float = 10.0,
    max_wait_ms: float = DEFAULT_WAIT_MS,
) -> StreamsRun:
    """Detect on several at once: `for name, frame, detections in (run := run_streams(detector, [0, 1])): ...`.

    Arguments as in `StreamsRun`, which it returns. The detector is not closed.
    """
    return StreamsRun(detector, sources, every_frame=every_frame, reconnect_s=reconnect_s, max_wait_ms=max_wait_ms)


class _Queue(Generic[T]):
    """A bounded queue of one writer and one reader, either of which can end it."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._items: deque[T] = deque()
        self._changed = threading.Condition()  # reentrant, so a signal handler may come in between
        self._ended = self._refused = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Add an item, waiting for room; False where nobody wants it any more."""
        with self._changed:
            while len(self._items) >= self._room and not self._refused:
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
