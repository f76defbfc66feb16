"""Columns: the same records as a list holds, in little memory, and one copy of them for all processes."""

from __future__ import annotations

import multiprocessing
import pickle
import tracemalloc
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from edgeyolo.data.assembly import RawPictures, assemble, in_parts, without_repeats
from edgeyolo.data.columns import Texts
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.letterboxed import letterboxed_sides, letterboxed_sizes_hw
from edgeyolo.data.records import Objects, Record, Records, rows_by_size
from edgeyolo.data.report import ProblemLog
from edgeyolo.geometry.letterbox import make_letterbox


def some_records(count: int, seed: int = 0) -> list[Record]:
    """Of several sizes, with none to four objects and none to two ignored ones."""
    rng = np.random.default_rng(seed)

    def objects(most: int) -> tuple[np.ndarray, np.ndarray]:
        many = int(rng.integers(most + 1))
        return rng.uniform(0, 50, (many, 4)).astype(np.float32), rng.integers(0, 3, many)

    return [
        Record(Path(f"/set/bäume {i}.jpg"), f"bäume {i}", (60 + i % 3, 80), *objects(4), *objects(2))
        for i in range(count)
    ]


def assert_same(found: Record, expected: Record) -> None:
    assert (found.image_path, found.image_id, found.image_hw) == (
        expected.image_path,
        expected.image_id,
        expected.image_hw,
    )
    for name in ("boxes_xyxy", "class_ids", "ignored_boxes_xyxy", "ignored_class_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


@pytest.mark.parametrize("at", [slice(None), slice(2, 5), slice(None, None, -1), slice(9, None), slice(0, 0)])
def test_columns_are_read_as_a_list_is(at: slice) -> None:
    expected = some_records(9)
    for found, record in zip(Records.of(expected)[at], expected[at], strict=True):
        assert_same(found, record)
    assert_same(Records.of(expected)[-1], expected[-1])
    with pytest.raises(IndexError):
        Records.of(expected)[9]


def test_rows_are_chosen_by_their_numbers_and_a_copy_is_the_same() -> None:
    expected = some_records(9)
    records = pickle.loads(pickle.dumps(Records.of(expected)))
    for found, row in zip(records[np.array([4, 0, 4])], (4, 0, 4), strict=True):
        assert_same(found, expected[row])


def test_any_name_of_a_file_comes_back() -> None:
    texts = ["", "a", "ü\udcff", "a", "\ud800", "日本", ""]
    assert list(Texts.of(texts)) == texts and list(Texts.of(texts)[::2]) == texts[::2]
    assert Texts.of(texts).first_rows().tolist() == [0, 1, 2, 1, 4, 5, 0]


def test_two_texts_of_one_hash_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeyolo.data.columns.hash", lambda _: 1, raising=False)
    assert Texts.of(["a", "b", "a", "c"]).first_rows().tolist()[:2] == [0, 1]


def test_sizes_are_grouped() -> None:
    sizes = np.array([[3, 5], [5, 3], [3, 5], [2**32 - 1, 2**32 - 1]])
    found = {size: rows.tolist() for size, rows in rows_by_size(sizes)}
    assert found == {(3, 5): [0, 2], (5, 3): [1], (2**32 - 1, 2**32 - 1): [3]}
    assert not list(rows_by_size(sizes[:0]))


def test_letterboxed_measures_are_those_of_each_picture() -> None:
    expected = some_records(40)
    records = Records.of(expected)
    letterboxes = [make_letterbox(record.image_hw, (64, 64)) for record in expected]
    assert letterboxed_sizes_hw(records, (64, 64)).tolist() == [list(box.resized_hw) for box in letterboxes]
    boxes = np.concatenate([box.apply(r.boxes_xyxy) for box, r in zip(letterboxes, expected, strict=True)])
    np.testing.assert_array_equal(letterboxed_sides(records, (64, 64)), boxes[:, 2:] - boxes[:, :2])


def blocks(count: int, boxes: int):
    for rows in in_parts(range(count)):
        block = RawPictures()
        corners = np.random.default_rng(0).uniform(1, 100, (len(rows) * boxes, 2))
        for row in rows:
            block.add_picture(f"/set/images/{row:07d}.jpg", f"images/{row:07d}.jpg", (640, 640), "labels")
        block.counts = [boxes] * len(rows)
        block.boxes_xyxy = np.hstack([corners, corners + 100])
        block.class_ids = np.arange(len(rows) * boxes) % 3
        block.is_ignored = np.zeros(len(rows) * boxes, np.bool_)
        yield block


def test_memory_of_a_set_is_that_of_its_boxes_and_names() -> None:
    """20,000 pictures of 10 boxes: 240 bytes a picture for boxes and classes, 45 for names, and little on top."""
    count = 20_000
    tracemalloc.start()
    try:
        data = assemble(Path("set"), "train", ("a", "b", "c"), blocks(count, 10), ProblemLog())
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) == count and data.report.boxes == 10 * count and data.report.is_clean
    assert held / count < 500
    assert peak - held < 64 << 20  # of one block, however many there are


def test_pictures_that_are_named_twice_are_used_once() -> None:
    log = ProblemLog()
    assert without_repeats(Texts.of(["a", "b", "a", "c", "b"]), lambda row: f"label {row}", log) == [0, 1, 3]
    assert log.counts == {"repeated picture": 2} and [p.where for p in log.examples] == ["label 2", "label 4"]


def walk(records: Records, pipe: Connection) -> None:
    """Sum up all boxes, and say how much of the process's memory is its own."""
    total = sum(float(record.boxes_xyxy.sum()) for record in records)
    fields = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    private = sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
    pipe.send((total, private << 10))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell a process's memory")
def test_forked_processes_do_not_copy_it() -> None:
    pictures, boxes = 2000, 2000
    texts = Texts.of(map(str, range(pictures)))
    starts = np.arange(pictures + 1) * boxes
    objects = Objects(starts, np.ones((pictures * boxes, 4), np.float32), np.zeros(pictures * boxes, np.int64))
    records = Records(
        texts,
        texts,
        np.full((pictures, 2), 640),
        objects,
        Objects(np.zeros(pictures + 1, np.int64), objects.boxes_xyxy[:0], objects.class_ids[:0]),
    )
    start = multiprocessing.get_context("fork")
    pipe, theirs = start.Pipe()
    process = start.Process(target=walk, args=(records, theirs))
    process.start()
    total, private = pipe.recv()
    process.join()
    assert total == 4 * pictures * boxes
    assert private < objects.boxes_xyxy.nbytes / 2


def test_spawned_processes_open_the_same_memory() -> None:
    records = some_records(9)
    report = assemble(Path("set"), "train", ("a", "b", "c"), (), ProblemLog()).report
    data = Dataset("set", "train", ("a", "b", "c"), Records.of(records), report)
    data.records.share()
    for found, record in zip(data.records, records, strict=True):
        assert_same(found, record)
    data.records.objects.class_ids[:] = 7  # what was moved is what is seen
    pipe, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=largest_class, args=(data.records, theirs))
    process.start()
    assert pipe.recv() == 7
    data.records.objects.class_ids[:] = 8
    pipe.send(None)
    assert pipe.recv() == 8
    process.join()
    assert [record.class_ids.tolist() for record in pickle.loads(pickle.dumps(data.records))] == [
        [8] * len(record.class_ids) for record in records
    ]


def largest_class(records: Records, pipe: Connection) -> None:
    """Before and after a message."""
    pipe.send(int(records.objects.class_ids.max()))
    pipe.recv()
    pipe.send(int(records.objects.class_ids.max()))
