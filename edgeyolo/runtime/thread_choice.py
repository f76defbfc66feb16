"""How many threads a network runs with where nobody has said: as many as other work leaves cores, if they help.

An engine's threads wait for one another in every layer. A core that other work has taken holds all of them up, for
whole time slices, and where they spin while they wait, much longer: fewer threads are then faster, and far steadier.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgeyolo.backends import CpuSession, Session
from edgeyolo.runtime.load_meter import LoadMeter, make_load_meter
from edgeyolo.spec.errors import EdgeYoloError

logger = logging.getLogger(__name__)

SLACK = 0.35  # cores in use by others that do not count: every system is a little busy
PATIENCE_S, MOST_PATIENCE_S = 1.0, 60.0  # for which there must be room before threads are added again
PREMATURE_S = 10.0  # threads that have to go again so soon after they were added were added too early
TRIAL_S, LONGEST_TRIAL_S = 60.0, 600.0  # from one trial of fewer threads to the next, if the machine stays calm
WINDOW_S, SHORT_WINDOW_S = 0.25, 0.1  # between two looks at the machine; the shorter after a slow call
REST_S, IN_A_ROW = 0.005, 3  # after which an engine's threads sleep; calls of another kind that are no accident
_TURNS, _TURN = 4, 6  # of a trial, for each side, and calls of a turn; the first, after the change, does not count
_GAIN = 0.95  # of the time with more threads, that fewer must reach to be preferred
_SLOW = 1.5  # times the usual


class ThreadChoice:
    """Chooses a number of threads from what it is told; it reads no clock and no machine itself.

    Two things decide. The cores that others leave are the limit: it falls at once, and rises only after a time of
    calm, longer each time that a rise was premature. Below it, fewer threads are taken where they are faster, as on a
    machine whose processors share a core, or in a stream, between whose frames the threads sleep and have to be woken:
    a trial in turns says so, in calm, at the start and then ever more seldom, for calls in a row and for calls after a
    rest each.

    Args:
        most: threads to use on an idle machine.
        cores: processors that the threads may run on.

    Attributes:
        limit: threads that the machine has room for.
    """

    def __init__(self, most: int, cores: int) -> None:
        self.most = most
        self.limit = most
        self.cores = cores
        self._uses = (_Use(most), _Use(most))  # calls in a row, calls after a rest
        self._use = self._uses[0]
        self._unlike = 0  # calls in a row that are not of this use
        self._patience_s = PATIENCE_S
        self._raised_s = -PREMATURE_S
        self._room: tuple[float, int] | None = None  # since when there is room for more, and for how many

    def count(self) -> int:
        """Threads to run with next."""
        return min(self._use.count(), self.limit)

    def hear_load(self, others: float, now_s: float) -> None:
        """Take in how many cores other work is using."""
        room = max(1, min(self.most, int(self.cores - others + SLACK)))
        if room < self.most:
            self._use.trial = None
        if room < self.limit:
            is_premature = now_s - self._raised_s < PREMATURE_S
            self._patience_s = min(2 * self._patience_s, MOST_PATIENCE_S) if is_premature else PATIENCE_S
            self.limit, self._room = room, None
        elif room == self.limit:
            self._room = None
            if room == self.most:
                self._use.begin_trial(now_s)
        else:
            since_s, least = self._room or (now_s, room)
            self._room = (since_s, min(least, room))
            if now_s - since_s >= self._patience_s:
                self.limit, self._room, self._raised_s = self._room[1], None, now_s

    def hear_time(self, count: int, taken_ms: float, now_s: float, *, rest_s: float = 0.0) -> None:
        """Take in what a call took with so many threads, so long after the one before it."""
        use = self._uses[rest_s > REST_S]
        self._unlike = 0 if use is self._use else self._unlike + 1
        if self._unlike == IN_A_ROW:
            self._use.trial = None
            self._use, self._unlike = use, 0
        if not self._unlike:
            self._use.hear_time(count, taken_ms, now_s)

    def is_slow(self, count: int, taken_ms: float) -> bool:
        """Whether a call took much longer than it does in calm."""
        return taken_ms > _SLOW * self._use.usual_ms.get(count, float("inf"))


class _Use:
    """How many threads are best for one way of calling, as far as trials have told.

    Attributes:
        trial: that is going on.
        usual_ms: of a call, by number of threads.
    """

    def __init__(self, most: int) -> None:
        self.trial: _Trial | None = None
        self.usual_ms: dict[int, float] = {}
        self._most = self._preferred = most
        self._trial_after_s = 0.0
        self._pause_s = TRIAL_S

    def count(self) -> int:
        """Threads to run with next, if there is room."""
        return self.trial.count() if self.trial else self._preferred

    def begin_trial(self, now_s: float) -> None:
        """Ask whether fewer threads are faster, if it is time to."""
        if self._most > 1 and self.trial is None and now_s >= self._trial_after_s:
            self._preferred = min(self._preferred + 1, self._most)
            self.trial = _Trial(self._preferred)

    def hear_time(self, count: int, taken_ms: float, now_s: float) -> None:
        """Take in what a call took with so many threads."""
        if self.trial is None:
            return
        self.trial.add(count, taken_ms)
        if self.trial.is_over():
            self.usual_ms |= self.trial.usual_ms()
            if not self.trial.is_fewer_faster():
                self.trial, self._trial_after_s = None, now_s + self._pause_s
                self._pause_s = min(2 * self._pause_s, LONGEST_TRIAL_S)
                return
            self._preferred -= 1
            self.trial = _Trial(self._preferred) if self._preferred > 1 else None
            self._trial_after_s = now_s + self._pause_s


class _Trial:
    """A number of threads against one fewer, in turns."""

    def __init__(self, more: int) -> None:
        self._counts = (more, more - 1)
        self._times_ms: dict[int, list[float]] = {more: [], more - 1: []}
        self._turn_ms: list[float] = []
        self._turns = 0

    def count(self) -> int:
        """The number whose turn it is."""
        return self._counts[self._turns % 2]

    def add(self, count: int, taken_ms: float) -> None:
        """Count a call, unless it ran with another number."""
        if count == self.count():
            self._turn_ms.append(taken_ms)
        if len(self._turn_ms) == _TURN:
            self._times_ms[count] += self._turn_ms[1:]
            self._turn_ms = []
            self._turns += 1

    def is_over(self) -> bool:
        """Whether both sides have had all their turns."""
        return self._turns == 2 * _TURNS

    def usual_ms(self) -> dict[int, float]:
        """First quartiles by number of threads: what other work does to some calls is not the threads' fault."""
        return {count: statistics.quantiles(times_ms, n=4)[0] for count, times_ms in self._times_ms.items()}

    def is_fewer_faster(self) -> bool:
        """Whether the smaller number won."""
        more_ms, fewer_ms = (self.usual_ms()[count] for count in self._counts)
        return fewer_ms < _GAIN * more_ms


def follow_machine(open_session: Callable[[], Session]) -> Session:
    """Open a session whose number of threads follows the machine; one that cannot, or need not, stays as it is."""
    meter = make_load_meter()
    with meter.watching() if meter else contextlib.nullcontext():
        session = open_session()
    if meter is None or not isinstance(session, CpuSession) or session.threads < 2:
        return session
    return AdaptiveSession(session, meter)


class AdaptiveSession:
    """A session whose number of threads follows the machine; used as any other.

    Args:
        session: closed together with this one.
        meter: has watched it being opened.
    """

    def __init__(self, session: CpuSession, meter: LoadMeter) -> None:
        self._session = session
        self._meter = meter
        self._choice = ThreadChoice(session.threads, len(meter.cpus))
        self._changes = 0
        self._seen = threading.local()  # `changes` when the calling thread last ran
        self._deciding = threading.Lock()
        self._changing: threading.Thread | None = None
        self._is_fixed = False
        self._looked_s = self._ended_s = 0.0

    @property
    def threads(self) -> int:
        """Threads that it runs with now."""
        return self._session.threads

    def run(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`."""
        count, changes = self._session.threads, self._changes
        started_s = time.monotonic()
        if getattr(self._seen, "changes", None) == changes:
            maps = self._session.run(images)
        else:  # engines may start threads after a change, and for each thread that calls
            with self._meter.watching(run=True):
                maps = self._session.run(images)
            self._seen.changes = changes
        now_s = time.monotonic()
        if not self._is_fixed and self._deciding.acquire(blocking=False):
            try:
                self._follow(count, 1e3 * (now_s - started_s) / len(images), now_s, started_s - self._ended_s)
            finally:
                self._deciding.release()
        self._ended_s = now_s
        return maps

    def close(self) -> None:
        """Close the session."""
        self._is_fixed = True
        if self._changing is not None:
            self._changing.join()
        self._session.close()

    def _follow(self, count: int, taken_ms: float, now_s: float, rest_s: float) -> None:
        """Take a call into account, and from time to time the machine; then change the number if it is to change."""
        if self._changing is not None and self._changing.is_alive():
            return
        wait_s = SHORT_WINDOW_S if self._choice.is_slow(count, taken_ms) else WINDOW_S
        if now_s - self._looked_s >= wait_s and (others := self._meter.read()) is not None:
            self._looked_s = now_s
            self._choice.cores = len(self._meter.cpus)
            self._choice.hear_load(others, now_s)
        self._choice.hear_time(count, taken_ms, now_s, rest_s=rest_s)
        wanted = self._choice.count()
        if wanted != self._session.threads:
            self._changing = threading.Thread(target=self._change, args=(wanted,), name="edgeyolo-threads")
            self._changing.start()

    def _change(self, count: int) -> None:
        """Take another number of threads; apart from the calls, for the network may have to be loaded for it."""
        try:
            with self._meter.watching():
                self._session.use_threads(count)
        except EdgeYoloError as error:
            logger.warning("the number of threads stays %d: %s", self._session.threads, error)
            self._is_fixed = True
        self._changes += 1
