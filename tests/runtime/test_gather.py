"""Batches from several sources: when they go, whose frames are in them, and that none is held up."""

from __future__ import annotations

import threading
import time
from collections import Counter

import numpy as np
import pytest

from edgeyolo.runtime.gather import Frame, Gather

IMAGE = np.zeros((2, 2, 3), np.uint8)


def frame(source: int, index: int = 0) -> Frame:
    return Frame(source, index, IMAGE, time.perf_counter())


def taken(gather: Gather) -> tuple[list[tuple[int, int]], float]:
    """Source and index of each frame of a batch, and the seconds until it came."""
    started = time.perf_counter()
    return [(f.source, f.index) for f in gather.take()], time.perf_counter() - started


def test_a_batch_goes_when_it_is_full_or_every_source_is_in_it() -> None:
    gather = Gather([True] * 3, most=2, wait_s=60.0)
    for source in (2, 0, 1):
        gather.put(frame(source))
    assert taken(gather)[0] == [(0, 0), (1, 0)]  # two of three, of which one waits
    gather.put(frame(0, 1))
    assert taken(gather)[0] == [(2, 0), (0, 1)]  # its turn first
    wide = Gather([True] * 3, most=8, wait_s=60.0)
    for source in range(3):
        wide.put(frame(source))
    assert taken(wide)[0] == [(0, 0), (1, 0), (2, 0)]


def test_a_silent_source_is_waited_for_once_and_again_when_it_speaks() -> None:
    gather = Gather([True, True], most=4, wait_s=0.2)
    gather.put(frame(0))
    batch, seconds = taken(gather)
    assert batch == [(0, 0)] and 0.1 < seconds < 5
    for index in range(1, 4):
        gather.put(frame(0, index))
        batch, seconds = taken(gather)
        assert batch == [(0, index)] and seconds < 0.1  # it was missed
    gather.put(frame(1))
    gather.put(frame(0, 4))
    assert sorted(taken(gather)[0]) == [(0, 4), (1, 0)]
    gather.put(frame(0, 5))
    assert taken(gather)[1] > 0.1  # it has spoken, and is expected


def test_a_frame_that_has_waited_for_the_engine_does_not_wait_again() -> None:
    gather = Gather([False, False], most=4, wait_s=0.3)
    gather.put(frame(0))
    time.sleep(0.35)
    assert taken(gather)[1] < 0.2


def test_a_source_whose_frames_replace_each_other_does_not_put_the_batch_off() -> None:
    gather = Gather([True, True], most=4, wait_s=0.2)
    stop = threading.Event()

    def write() -> None:
        for index in range(10_000):
            if stop.wait(0.005):
                break
            gather.put(frame(0, index))

    writer = threading.Thread(target=write)
    writer.start()
    batch, seconds = taken(gather)
    stop.set()
    writer.join()
    assert len(batch) == 1 and seconds < 2 and gather.dropped[0] > 3


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_all_sources_get_their_share(most: int) -> None:
    gather = Gather([False] * 5, most=most, wait_s=0.0)
    counts: Counter[int] = Counter()
    order: dict[int, list[int]] = {}
    given = [0] * 5
    for _ in range(200):
        for source in range(5):  # every queue is always full
            while len(gather._waiting[source]) < gather._room:
                gather.put(frame(source, given[source]))
                given[source] += 1
        for source, index in taken(gather)[0]:
            counts[source] += 1
            order.setdefault(source, []).append(index)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(indices == list(range(len(indices))) for indices in order.values())


def test_one_source_fills_a_batch_alone() -> None:
    gather = Gather([False], most=4, wait_s=0.0)
    for index in range(4):
        gather.put(frame(0, index))
    gather.end(0)
    assert taken(gather)[0] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert gather.take() == []


def test_the_others_go_on_when_one_ends_and_an_error_comes_last() -> None:
    gather = Gather([False, False], most=2, wait_s=60.0)
    gather.end(0)
    gather.put(frame(1))
    assert taken(gather)[0] == [(1, 0)]  # nobody else is to come
    gather.put(frame(1, 1))
    gather.fail(MemoryError("no frame buffer"))
    assert not gather.put(frame(1, 2))
    assert taken(gather)[0] == [(1, 1)]
    with pytest.raises(MemoryError, match="no frame buffer"):
        gather.take()
    assert gather.take() == []
