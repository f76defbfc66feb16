"""How many cores the rest of the machine is using, measured without running anything: Linux's own counts."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_THREAD_CLOCK = 6  # how Linux numbers clocks: of one thread, of the time that the scheduler gave it
_LEAST_WINDOW_S = 0.1  # the kernel counts in hundredths of a second
_ACTIVE = 0.25  # of the calling thread's work in a run, that another must do in it to be one of its engine's
_USERS: dict[int, int] = {}  # engines' threads of this process, and the thread that each works for


class LoadMeter:
    """Counts the cores that other work takes, that of this process included, apart from an engine's own threads.

    What an engine takes says nothing about the machine: its threads spin while they wait.

    Attributes:
        cpus: the processors looked at: those that the engine's threads may run on.
    """

    def __init__(self) -> None:
        self.cpus = os.sched_getaffinity(0)
        caller = threading.get_native_id()
        # of the engine's threads, by the system's numbers
        self._taken_s = {caller: time.clock_gettime(_clock_of(caller))}
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self.read()

    @contextlib.contextmanager
    def watching(self, *, run: bool = False) -> Iterator[None]:
        """Inside, an engine may start threads; they and the calling one count as its own from then on.

        Args:
            run: the network runs inside. What works then for no other caller counts too: OpenMP keeps one team for
                each thread that calls, whichever network it was started for.
        """
        caller = threading.get_native_id()
        before_s = _read_threads()
        yield
        after_s = _read_threads()
        least_s = _ACTIVE * (after_s[caller] - before_s[caller]) if run else float("inf")
        for number in [*_USERS]:
            if number not in after_s:  # has ended, and its number may be given to another
                _USERS.pop(number, None)
        engines = {
            number: before_s.get(number, 0.0)
            for number in after_s.keys() - {thread.native_id for thread in threading.enumerate()}
            if number not in before_s
            or (after_s[number] - before_s[number] > least_s and _USERS.get(number, caller) == caller)
        }
        _USERS.update(dict.fromkeys(engines, caller))
        self.cpus = os.sched_getaffinity(0)
        with self._lock:
            self._taken_s = {caller: before_s[caller]} | engines | self._taken_s

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


def _read_threads() -> dict[int, float]:
    """Processor time of every thread of this process, by the system's numbers."""
    numbers = [int(path.name) for path in (_PROC / "self/task").iterdir()]
    return {number: taken_s for number in numbers if (taken_s := _thread_seconds(number)) is not None}


def _thread_seconds(number: int) -> float | None:
    """Processor time of a thread of this process, None if it has ended."""
    try:
        return time.clock_gettime(_clock_of(number))
    except OSError:
        return None


def _clock_of(number: int) -> int:
    return (~number << 3) | _THREAD_CLOCK
