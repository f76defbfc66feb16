"""How a run is asked to stop, and how it notices."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from edgeyolo.spec.progress import Progress


class StopRequest:
    """Set by SIGTERM, as machines send it that are taken back, and by the first Ctrl-C.

    Attributes:
        name: of the signal; empty while none has come.
    """

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; the second Ctrl-C ends at once, unsaved."""
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


class StopNow(Exception):
    """Leaves an evaluation that nobody waits for any more."""


class StoppingProgress:
    """A `Progress` that raises StopNow when a stop was asked for."""

    def __init__(self, progress: Progress, stop: StopRequest) -> None:
        self._progress = progress
        self._stop = stop

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Pass on, or leave."""
        if self._stop:
            raise StopNow
        self._progress.step(stage, done, total, text)


@contextlib.contextmanager
def heeding_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request, within the block; other threads than the main one cannot."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
