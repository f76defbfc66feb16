from __future__ import annotations

import threading
import time

from edgeyolo.data.yolo_labels import Labelled, read_ahead


def labelled(number: int) -> list[Labelled]:
    return [Labelled(f"{number}.png", f"{number}.png", (1, 1), f"{number}.txt", b"")]


def test_parts_come_in_their_order_and_are_read_together_where_the_disk_is_slow() -> None:
    readers: set[int] = set()

    def read(number: int) -> list[Labelled]:
        readers.add(threading.get_ident())
        time.sleep(0.02 if number % 2 else 0.01)  # waits, and computes nothing
        return labelled(number)

    started = time.perf_counter()
    assert list(read_ahead(read, range(60))) == [labelled(number) for number in range(60)]
    assert len(readers) > 2 and time.perf_counter() - started < 60 * 0.015


def test_what_is_in_memory_is_read_by_one_thread() -> None:
    readers: set[int] = set()

    def read(number: int) -> list[Labelled]:
        readers.add(threading.get_ident())
        ends = time.thread_time() + 0.002
        while time.thread_time() < ends:
            pass
        return labelled(number)

    assert len(list(read_ahead(read, range(5)))) == 5
    assert threading.get_ident() in readers


def test_an_error_of_reading_is_that_of_the_caller() -> None:
    def read(number: int) -> list[Labelled]:
        time.sleep(0.01)
        if number == 7:
            raise ValueError("broken")
        return labelled(number)

    found = []
    try:
        for part in read_ahead(read, range(20)):
            found.append(part)
    except ValueError:
        pass
    assert found == [labelled(number) for number in range(7)]
