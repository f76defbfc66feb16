"""Frames of one or several sources on their way to one engine: a short queue for each, and batches from all of them.

A batch goes when it is full, when every source has given a frame, or when its first frame has waited long enough. So
none waits for a slow source longer than that; one that was missed is not waited for again until it gives a frame.
Sources take turns: of more than a batch has room for, none comes twice before another that waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edgeyolo.spec.detections import Image

QUEUE_FRAMES = 2


@dataclass(frozen=True)
class Frame:
    """A picture that was captured.

    Attributes:
        source: which one it is of, counted from 0.
        index: which of the source's, those that were dropped included.
        captured_s: when, by `time.perf_counter`.
    """

    source: int
    index: int
    image: Image
    captured_s: float


class Gather:
    """The queues; each has a writer of its own, and all have one reader.

    Args:
        newest_wins: of each source: a frame takes the place of those that wait, instead of waiting for room itself.
        most: frames of a batch.
        wait_s: how long a frame waits for those of other sources.

    Attributes:
        dropped: of each source, frames that newer ones replaced.
    """

    def __init__(self, newest_wins: Sequence[bool], *, most: int, wait_s: float) -> None:
        self.dropped = [0] * len(newest_wins)
        self._newest_wins = newest_wins
        self._most, self._wait_s = most, wait_s
        self._room = max(QUEUE_FRAMES, most)
        self._waiting: list[deque[Frame]] = [deque() for _ in newest_wins]
        self._expected = [True] * len(newest_wins)  # gives frames, and has not been missed
        self._open = len(newest_wins)
        self._turn = 0
        self._changed = threading.Condition()  # reentrant, so a signal handler may come in between
        self._refused = False
        self._error: BaseException | None = None

    def put(self, frame: Frame) -> bool:
        """Add a frame, waiting for room or making it; False where nobody wants it any more."""
        queue = self._waiting[frame.source]
        with self._changed:
            if self._newest_wins[frame.source]:
                self.dropped[frame.source] += len(queue)
                queue.clear()
            while len(queue) >= self._room and not self._refused:
                self._changed.wait()
            if self._refused:
                return False
            queue.append(frame)
            self._expected[frame.source] = True
            self._changed.notify_all()
            return True

    def take(self) -> list[Frame]:
        """The next batch, frames of a source in their order; empty at the end. Raises what `fail` was given."""
        with self._changed:
            while not any(self._waiting) and self._open and not self._refused:
                self._changed.wait()
            if not any(self._waiting):
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                return []
            until_s = min(queue[0].captured_s for queue in self._waiting if queue) + self._wait_s
            while not self._is_enough() and (left_s := until_s - time.perf_counter()) > 0:
                self._changed.wait(left_s)
            self._expected = [bool(queue) for queue in self._waiting]
            return self._pick()

    def end(self, source: int) -> None:
        """No more frames come of a source."""
        with self._changed:
            self._open -= 1
            self._expected[source] = False
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End them all; `take` raises the error once nothing waits."""
        self._error = error
        self.refuse()

    def refuse(self) -> None:
        """Take no more frames; those that wait can still be had."""
        self._refused = True
        with self._changed:
            self._changed.notify_all()

    def _is_enough(self) -> bool:
        if self._refused or sum(map(len, self._waiting)) >= self._most:
            return True
        return all(queue or not expected for queue, expected in zip(self._waiting, self._expected, strict=True))

    def _pick(self) -> list[Frame]:
        picked: list[Frame] = []
        while len(picked) < self._most and any(self._waiting):
            queue = self._waiting[self._turn]
            self._turn = (self._turn + 1) % len(self._waiting)
            if queue:
                picked.append(queue.popleft())
        self._changed.notify_all()
        return picked
