"""How many cores the rest of the machine is using, measured without running anything: Linux's own counts."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_LEAST_WINDOW_S = 0.1  # the kernel counts in hundredths of a second


class LoadMeter:
    """Counts the cores that other work takes, that of this process included, apart from an engine's own threads.

    What an engine takes says nothing about the machine: its threads spin while they wait.

    Attributes:
        cpus: the processors looked at: those that the engine's threads may run on.
    """

    def __init__(self) -> None:
        self.cpus = os.sched_getaffinity(0)
        caller = threading.get_native_id()
        self._taken_s = {caller: _thread_seconds(caller) or 0.0}  # of the engine's threads, by the system's numbers
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self.read()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, an engine may start threads; they and the calling one count as its own from then on."""
        caller = threading.get_native_id()
        before, taken_s = _list_threads(), _thread_seconds(caller) or 0.0
        yield
        started = _list_threads() - before - {thread.native_id for thread in threading.enumerate()}
        self.cpus = os.sched_getaffinity(0)
        with self._lock:
            self._taken_s.setdefault(caller, taken_s)
            self._taken_s |= dict.fromkeys(started, 0.0)

    def read(self) -> float | None:
        """Cores in use by other work, on average since the last reading; None if that was too short ago to tell."""
        now_s = time.monotonic()
        if self._last is not None and now_s - self._last[0] < _LEAST_WINDOW_S:
            return None
        busy_s = self.busy_seconds()
        with self._lock:
            own_s = self._read_own()
        last, self._last = self._last, (now_s, busy_s)
        return None if last is None else max((busy_s - last[1] - own_s) / (now_s - last[0]), 0.0)

    def busy_seconds(self) -> float:
        """Time, of all `cpus` together and since some moment in the past, that they were not idle."""
        ticks = 0
        names = {f"cpu{number}" for number in self.cpus}
        for line in (_PROC / "stat").read_text().splitlines():
            name, *counts = line.split()
            if name in names:
                user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(int, counts[:8])
                ticks += user + nice + system + sum(interrupts_and_stolen)
        return ticks / os.sysconf("SC_CLK_TCK")

    def _read_own(self) -> float:
        """Seconds that the engine's threads took since the last time; those that have ended are forgotten."""
        total_s = 0.0
        for number, before_s in list(self._taken_s.items()):
            taken_s = _thread_seconds(number)
            if taken_s is None:
                del self._taken_s[number]
            else:
                self._taken_s[number] = taken_s
                total_s += taken_s - before_s
        return total_s


def make_load_meter() -> LoadMeter | None:
    """A meter; None where the system does not tell."""
    try:
        return LoadMeter()
    except (AttributeError, OSError, ValueError, IndexError):
        return None


def _list_threads() -> set[int]:
    return {int(path.name) for path in (_PROC / "self/task").iterdir()}


def _thread_seconds(number: int) -> float | None:
    """Processor time of a thread of this process, None if it has ended."""
    try:
        words = (_PROC / f"self/task/{number}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
