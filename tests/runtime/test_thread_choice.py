"""How many threads: against machines written in the test, with a clock of its own, and against a real engine."""

from __future__ import annotations

import _thread
import contextlib
import hashlib
import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from edgeyolo.runtime import thread_choice
from edgeyolo.runtime.load_meter import LoadMeter, make_load_meter
from edgeyolo.runtime.thread_choice import AdaptiveSession, ThreadChoice
from edgeyolo.spec.errors import BackendError

STEP_S = 0.25


class Machine:
    """Cores, shared fairly by some loops that never rest and by the threads of an engine, which spin."""

    def __init__(self, cores: int, most: int | None = None) -> None:
        self.cores = cores
        self.loops = 0.0
        self.now_s = 100.0
        self.choice = ThreadChoice(most or cores, cores)
        self.seen: list[int] = []
        self.rest_s = 0.0

    def others(self) -> float:
        """Cores that the loops get: those asked for, or their share where there are too few."""
        running = self.loops + self.choice.count()
        return self.loops * min(1.0, self.cores / running)

    def call_ms(self, count: int) -> float:
        """With one core shared with a loop, everyone waits for it; otherwise threads help."""
        return 100.0 if round(self.loops) + count > self.cores else 10.0 + 30.0 / count

    def live(self, seconds: float) -> list[int]:
        """The numbers of threads seen in so much time, ten calls between two looks."""
        self.seen = []
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            self.choice.hear_load(self.others(), self.now_s)
            for _ in range(10):
                count = self.choice.count()
                self.choice.hear_time(count, self.call_ms(count), self.now_s, rest_s=self.rest_s)
                self.seen.append(count)
        return self.seen


def test_all_threads_on_an_idle_machine_but_for_a_trial() -> None:
    machine = Machine(4)
    assert set(machine.live(10)) == {3, 4} and machine.seen.count(3) == 24
    assert set(machine.live(30)) == {4}


@pytest.mark.parametrize(
    ("cores", "loops", "left"), [(2, 1, 1), (2, 4, 1), (4, 1, 3), (4, 2, 2), (4, 3, 1), (8, 2, 6), (4, 0.3, 4)]
)
def test_threads_leave_the_cores_that_others_take(cores: int, loops: float, left: int) -> None:
    machine = Machine(cores)
    machine.live(20)
    machine.loops = loops
    machine.live(1)  # those that spin hide how much the others want, so this can take some looks
    assert set(machine.live(30)) == {left}
    machine.loops = 0
    machine.live(2)
    assert set(machine.live(5)) <= {cores, cores - 1}


def test_what_is_busy_from_the_start_is_seen_before_anything_is_tried() -> None:
    machine = Machine(2)
    machine.loops = 1
    assert set(machine.live(30)) == {1}


def test_bursts_do_not_make_it_hunt() -> None:
    """A loop for two seconds in every four: threads are added ever more seldom, and normally again afterwards."""
    machine = Machine(2)
    machine.live(20)
    rises = []
    for _ in range(30):
        machine.loops = 1
        busy = machine.live(2)
        machine.loops = 0
        calm = machine.live(2)
        rises.append(sum(after > before for before, after in itertools.pairwise(busy + calm)))
    assert sum(rises[4:]) == 0
    machine.live(70)
    assert machine.choice.limit == 2
    machine.loops = 1
    machine.live(2)
    machine.loops = 0
    assert machine.live(3)[-1] == 2  # patience is short again after a long calm


def test_fewer_threads_are_taken_where_they_are_faster() -> None:
    class SharedCores(Machine):
        def call_ms(self, count: int) -> float:
            return {1: 40.0, 2: 20.0, 3: 24.0, 4: 28.0}[count]

    machine = SharedCores(4)
    machine.live(10)
    assert set(machine.live(20)) == {2}
    assert 3 in machine.live(80)  # asked again after a minute
    assert set(machine.live(20)) == {2}


class Sleepy(Machine):
    """Threads help in calls in a row; after a rest they have to be woken, which takes longer than they save."""

    def call_ms(self, count: int) -> float:
        return {1: 18.0, 2: 21.0 if self.rest_s else 11.0}[count]


def test_what_a_stream_teaches_is_not_used_for_calls_in_a_row() -> None:
    machine = Sleepy(2)
    assert machine.live(10)[-1] == 2
    machine.rest_s = 0.03
    machine.live(10)
    assert set(machine.live(20)) == {1}
    for _ in range(5):
        machine.rest_s = 0.0
        assert set(machine.live(2)[3:]) == {2}
        machine.rest_s = 0.03
        assert set(machine.live(2)[3:]) == {1}


def test_calls_now_and_then_of_another_kind_change_nothing() -> None:
    machine = Sleepy(2)
    machine.live(10)
    machine.rest_s = 0.03
    machine.live(10)
    for number in range(400):
        machine.rest_s = 0.0 if number % 4 > 1 else 0.03
        count = machine.choice.count()
        machine.choice.hear_time(count, machine.call_ms(count), machine.now_s, rest_s=machine.rest_s)
        assert count == 1


def test_noise_does_not_take_threads_away() -> None:
    rng = np.random.default_rng(0)

    class Noisy(Machine):
        def call_ms(self, count: int) -> float:
            return float(rng.lognormal(0, 0.1)) * (10.0 if count == 2 else 11.0)

    for _ in range(20):
        machine = Noisy(2)
        machine.live(10)
        assert machine.choice.count() == 2


def test_stalls_in_half_of_a_trial_do_not_take_threads_away() -> None:
    rng = np.random.default_rng(0)

    class Stalling(Machine):
        def call_ms(self, count: int) -> float:
            return 17.0 if count == 1 else float(rng.choice((10.0, 30.0)))

    for _ in range(10):
        machine = Stalling(2)
        machine.live(10)
        assert machine.choice.count() == 2


def test_a_slow_call_is_one_of_much_more_than_the_usual_time() -> None:
    machine = Machine(2)
    assert not machine.choice.is_slow(2, 1e9)
    machine.live(20)
    assert machine.choice.is_slow(2, 1.6 * machine.call_ms(2)) and not machine.choice.is_slow(2, machine.call_ms(2))


class OwnMeter(LoadMeter):
    """A meter that sees this process alone, so that the computer of the test does not matter."""

    def busy_seconds(self) -> float:
        return time.process_time()


def burn(seconds: float) -> None:
    """Take one core, without holding up other Python threads."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)


class NativeThread:
    """A thread that `threading` does not know, as an engine's are; works when told to."""

    def __init__(self) -> None:
        self._start, self._done = threading.Semaphore(0), threading.Semaphore(0)
        _thread.start_new_thread(self._live, ())

    def _live(self) -> None:
        while self._start.acquire():
            burn(0.3)
            self._done.release()

    def work(self) -> None:
        """Begin 0.3 s of work."""
        self._start.release()

    def wait(self) -> None:
        """For the end of it."""
        self._done.acquire()


def test_an_engines_threads_are_not_load_and_all_others_are() -> None:
    meter = OwnMeter()
    with meter.watching():
        engine = NativeThread()
        time.sleep(0.05)
    meter.read()
    engine.work()
    burn(0.3)
    engine.wait()
    assert meter.read() == pytest.approx(0, abs=0.1)
    started_s = time.monotonic()
    other = threading.Thread(target=burn, args=(0.4,))
    other.start()
    other.join()
    expected = 0.4 / (time.monotonic() - started_s)
    assert meter.read() == pytest.approx(expected, rel=0.3)
    assert meter.read() is None  # too short ago


def test_a_team_that_was_there_already_is_the_engines_unless_it_works_for_another_caller() -> None:
    """OpenMP has one team for each calling thread, which any network of this process may have begun."""
    team, idle = NativeThread(), NativeThread()
    meter, second = OwnMeter(), OwnMeter()

    def run_in(meter: LoadMeter, worker: NativeThread) -> None:
        with meter.watching(run=True):
            worker.work()
            burn(0.3)
            worker.wait()

    def load_of(meter: LoadMeter, worker: NativeThread) -> float:
        meter.read()
        started_s, used_s = time.monotonic(), time.process_time()
        worker.work()
        worker.wait()
        found = meter.read()
        assert found is not None
        return found * (time.monotonic() - started_s) / (time.process_time() - used_s)

    run_in(meter, team)
    assert load_of(meter, team) < 0.2 and load_of(meter, idle) > 0.8
    caller = threading.Thread(target=run_in, args=(second, team))
    caller.start()
    caller.join()
    assert load_of(second, team) > 0.8


def test_the_machines_own_counts_are_read() -> None:
    meter = make_load_meter()
    if meter is None:
        pytest.skip("this system does not tell")
    before = meter.busy_seconds()
    burn(0.3)
    assert 0.2 < meter.busy_seconds() - before < 60


def test_a_system_that_does_not_tell_has_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity")
    assert make_load_meter() is None


class FakeMeter:
    """Says what it is told to."""

    def __init__(self, cores: int) -> None:
        self.cpus = set(range(cores))
        self.load = 0.0

    def read(self) -> float:
        return self.load

    @contextlib.contextmanager
    def watching(self, *, run: bool = False) -> Iterator[None]:
        yield


class FakeSession:
    """Records the threads of its runs."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.ran: list[int] = []
        self.closed = False
        self.error: Exception | None = None

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        self.ran.append(self.threads)
        return [images]

    def use_threads(self, count: int) -> None:
        if self.error:
            raise self.error
        time.sleep(0.05)
        self.threads = count

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_choice, "WINDOW_S", 0.0)
    monkeypatch.setattr(thread_choice, "PATIENCE_S", 0.05)


IMAGE = np.zeros((1, 3, 4, 4), np.float32)


def run_for(session: AdaptiveSession, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert session.run(IMAGE)[0] is IMAGE
        time.sleep(0.001)


def test_a_session_follows_while_calls_go_on(quick: None) -> None:
    inner, meter = FakeSession(4), FakeMeter(4)
    session = AdaptiveSession(inner, meter)
    meter.load = 1.0
    run_for(session, 0.3)
    assert session.threads == 3
    assert inner.ran.count(4) > 10  # while the network for three was being loaded
    meter.load = 0.0
    run_for(session, 0.5)
    assert inner.ran[-1] in (4, 3) and 4 in inner.ran[-100:]
    session.close()
    assert inner.closed


def test_a_change_that_fails_is_logged_and_not_tried_again(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    inner, meter = FakeSession(2), FakeMeter(2)
    inner.error = BackendError("has changed")
    session = AdaptiveSession(inner, meter)
    meter.load = 1.0
    run_for(session, 0.2)
    assert set(inner.ran) == {2}
    assert [record.message for record in caplog.records] == ["the number of threads stays 2: has changed"]
    session.close()
