"""One source of a run: what it is called, how far it is, and what became of its frames."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from edgeyolo.runtime.capture import FrameReader
from edgeyolo.runtime.clock import Clock, Timing, spread_of
from edgeyolo.runtime.gather import Frame
from edgeyolo.spec.benchmark import Spread

REMEMBERED = 10_000  # frames whose times make the summary, so that a stream of days needs no more memory


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
        batch: frames that the detector saw at a time, of this source and others, in the mean.
        latency: of the detector's call: "pre", "network", "post" and "total"; and "delay", from capture to result. Of
            the last 10,000 frames; empty without any.
    """

    captured: int
    detected: int
    dropped: int
    reconnects: int
    seconds: float
    fps: float
    batch: float
    latency: dict[str, Spread]


@dataclass(frozen=True)
class StreamCounts:
    """Frames of a stream so far, as in `StreamSummary`.

    Attributes:
        captured_s: when the latest was captured, by `time.perf_counter`; 0 before the first.
    """

    captured: int = 0
    detected: int = 0
    dropped: int = 0
    reconnects: int = 0
    captured_s: float = 0.0


class Feed:
    """One source of a run.

    Attributes:
        stem: what the frames' names begin with; no two of a run have the same.
        live: whether it goes on by itself.
        fps: frames per second that it says it gives; 0 where it does not.
        error: what ended it, None where nothing has.
    """

    def __init__(self, reader: FrameReader) -> None:
        self.reader = reader
        self.stem, self.live, self.fps = reader.source.stem, reader.live, reader.fps
        self.captured = self.detected = self.shared = 0
        self.first_s = self.last_s = self.captured_s = 0.0
        self.times: deque[tuple[Timing, float]] = deque(maxlen=REMEMBERED)

    def seconds(self, frame: Frame) -> float:
        """When a frame was captured, from the first one on; for a file, when it is shown."""
        return frame.index / self.fps if self.fps and not self.live else frame.captured_s - self.first_s

    def counts(self, dropped: int) -> StreamCounts:
        """What became of its frames so far."""
        return StreamCounts(self.captured, self.detected, dropped, self.reader.reconnects, self.captured_s)

    def count(self, frame: Frame, timing: Timing, batch: int) -> None:
        """A frame was detected on, in a batch of so many."""
        self.last_s = time.perf_counter()
        self.detected += 1
        self.shared += batch
        self.times.append((timing, (self.last_s - frame.captured_s) * 1e3))

    def summarise(self, dropped: int) -> StreamSummary:
        """Counts and times so far."""
        seconds = max(self.last_s - self.first_s, 0.0)
        times = list(self.times)
        latency: dict[str, Spread] = {}
        if times:
            latency = Clock([timing for timing, _ in times]).spread()
            latency["delay"] = spread_of([delay for _, delay in times])
        return StreamSummary(
            captured=self.captured,
            detected=self.detected,
            dropped=dropped,
            reconnects=self.reader.reconnects,
            seconds=seconds,
            fps=self.detected / seconds if seconds else 0.0,
            batch=self.shared / self.detected if self.detected else 0.0,
            latency=latency,
        )
