"""The loader: the same batches whatever loads them, and no crash on what is broken."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from bccd import BCCD, needs_bccd

from edgeyolo.data.dataset import Dataset, Record, make_report, open_dataset
from edgeyolo.data.report import ProblemLog
from edgeyolo.data.sample import Sample
from edgeyolo.geometry.network_input import make_input
from edgeyolo.spec.errors import DataError, TrainingError, UsageError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.training import AugmentConfig
from edgeyolo.training.loader import Batch, make_loader
from edgeyolo.training.order import EpochOrder
from edgeyolo.training.step import normalise

SQUARE = InputSpec(image_hw=(64, 64))
MOVED = AugmentConfig(degrees=10, shear=5, flip_ud=0.3, mosaic=0.7, mixup=0.5)
FULL = msgspec.structs.replace(MOVED, cutmix=0.3, cutout=0.3)
COUNT = 10


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Ten pictures of noise, each with two boxes."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(COUNT):
        hw = (int(rng.integers(40, 120)), int(rng.integers(40, 120)))
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (*hw, 3), np.uint8))
        boxes = np.array([[2, 3, 30, 35], [10, 10, 38, 38]], np.float32)
        records.append(Record(path, f"id{i}", hw, boxes, np.array([0, 1])))
    return Dataset(
        "noise", "train", ("a", "b"), records, make_report("noise", "train", ("a", "b"), records, ProblemLog())
    )


def batches(dataset: Dataset, *, epoch: int = 0, mosaic: bool = True, **options) -> list[Batch]:
    options = {"input_spec": SQUARE, "augment": FULL} | options
    order = options.pop("order", None) or EpochOrder(len(dataset), options.pop("batch", 4), options.pop("seed", 0))
    loader = make_loader(dataset, order, **options)
    loader.start_epoch(epoch, mosaic=mosaic)
    found = list(loader)
    assert len(found) == len(loader)
    return found


def run_out(dataset: Dataset, workers: int) -> None:
    """Iterate to the expected failure; an exception keeps the workers alive until it is collected, so end them here."""
    loader = make_loader(dataset, EpochOrder(len(dataset), 1), input_spec=SQUARE, augment=None, workers=workers)
    try:
        list(loader)
    finally:
        if workers:
            loader._batches._iterator._shutdown_workers()


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) and a.image_ids == b.image_ids


def test_shapes_types_and_ranges(dataset: Dataset) -> None:
    found = batches(dataset, input_spec=InputSpec(image_hw=(64, 96)))
    assert len(found) == 2  # the last two pictures make no batch
    for batch in found:
        assert batch.images.shape == (4, 3, 64, 96) and batch.images.dtype == torch.uint8
        assert batch.targets.shape[1] == 6 and batch.targets.dtype == torch.float32
        index, class_id, x1, y1, x2, y2 = batch.targets.T
        assert set(index.tolist()) <= {0, 1, 2, 3} and set(class_id.tolist()) <= {0, 1}
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= 96).all() and (y2 <= 64).all()
        assert (x2 - x1 >= 2).all() and (y2 - y1 >= 2).all()
    assert len({i for batch in found for i in batch.image_ids}) == 8


@pytest.mark.parametrize(
    "spec",
    [
        SQUARE,
        InputSpec(image_hw=(96, 64), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        InputSpec(image_hw=(64, 96), colour_order="bgr", letterbox_value=7, letterbox_alignment="top-left"),
    ],
    ids=["plain", "normalised", "top-left bgr"],
)
def test_training_sees_what_the_board_sees(dataset: Dataset, spec: InputSpec) -> None:
    """To the bit, and so do the boxes."""
    for batch in batches(dataset, input_spec=spec, augment=None):
        found = normalise(batch.images, spec).numpy()
        for i, image_id in enumerate(batch.image_ids):
            sample = next(sample for sample in dataset if sample.image_id == image_id)
            expected, letterbox = make_input(sample.image, spec)
            np.testing.assert_array_equal(found[i], expected[0])
            rows = batch.targets[batch.targets[:, 0] == i]
            assert rows[:, 1].tolist() == sample.class_ids.tolist()
            np.testing.assert_allclose(rows[:, 2:].numpy(), letterbox.apply(sample.boxes_xyxy), atol=1e-4)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_cache_do_not_change_anything(dataset: Dataset, workers: int) -> None:
    expected = [batches(dataset, epoch=epoch) for epoch in (0, 1)]
    loader = make_loader(dataset, EpochOrder(len(dataset), 4), input_spec=SQUARE, augment=FULL, workers=workers)
    for epoch in (1, 0, 1):
        loader.start_epoch(epoch)
        assert_same(list(loader), expected[epoch])
    assert_same(batches(dataset, cache_mib=0, workers=workers), expected[0])


def test_parts_are_hidden_as_often_as_is_asked(dataset: Dataset) -> None:
    still = AugmentConfig(hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, flip_lr=0, mosaic=0, mixup=0)
    plain = batches(dataset, augment=still)
    cut = batches(dataset, augment=msgspec.structs.replace(still, cutout=1.0, cutout_size=0.5))
    mixed = {
        on: batches(dataset, augment=msgspec.structs.replace(still, cutmix=1.0), mosaic=on) for on in (True, False)
    }
    assert_same(mixed[False], plain)
    for before, hidden, other in zip(plain, cut, mixed[True], strict=True):
        is_changed = (hidden.images != before.images).any(1)
        assert is_changed.flatten(1).any(1).all() and is_changed.float().mean() < 0.26
        assert (hidden.images.movedim(1, -1)[is_changed] == 114).all()
        assert (other.images != before.images).flatten(1).any(1).sum() >= 3


def test_epoch_and_seed_decide(dataset: Dataset) -> None:
    first = batches(dataset)
    assert_same(first, batches(dataset))
    for other in (batches(dataset, epoch=1), batches(dataset, seed=1)):
        assert not torch.equal(first[0].images, other[0].images)
        assert [batch.image_ids for batch in first] != [batch.image_ids for batch in other]


def test_mosaic_closes_with_living_workers(dataset: Dataset) -> None:
    only_mosaic = AugmentConfig(0, 0, 0, 0, 0, 0, 0, 0, 0, mosaic=1, mixup=0)
    loader = make_loader(dataset, EpochOrder(len(dataset), COUNT), input_spec=SQUARE, augment=only_mosaic, workers=1)
    for mosaic in (True, False, True):
        loader.start_epoch(3, mosaic=mosaic)
        (batch,) = loader
        (plain,) = batches(dataset, augment=None, batch=COUNT, epoch=3)
        assert batch.image_ids == plain.image_ids
        if mosaic:
            assert len(batch.targets) > len(plain.targets)
        else:  # half a pixel where the padding is odd
            np.testing.assert_allclose(batch.targets, plain.targets, atol=0.501)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_are_replaced_and_logged_once(
    dataset: Dataset, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    for i in (3, 4):
        path = dataset.records[i].image_path
        path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        loader = make_loader(dataset, EpochOrder(len(dataset), 5), input_spec=SQUARE, augment=None, workers=workers)
        for epoch in (0, 1):
            loader.start_epoch(epoch)
            ids = [image_id for batch in loader for image_id in batch.image_ids]
            assert sorted(ids) == sorted(["id0", "id1", "id2", "id5", "id5", "id5", "id6", "id7", "id8", "id9"])
    if workers == 0:
        assert sorted("3.png" in r.message for r in caplog.records) == [False, True]
    assert_same(batches(dataset, workers=workers), batches(dataset))


def test_no_readable_picture_at_all(dataset: Dataset) -> None:
    for record in dataset.records:
        record.image_path.write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(DataError, match="no picture can be read"):
            run_out(dataset, workers)


class Deadly(Dataset):
    """Kills the process that reads its sixth picture."""

    def __getitem__(self, index: int) -> Sample:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


# torch raises in a signal handler, wherever Python is at that moment: in a callback of Hypothesis it is "unraisable".
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_has_a_message(dataset: Dataset) -> None:
    deadly = Deadly(dataset.name, dataset.split, dataset.class_names, dataset.records, dataset.report)
    with pytest.raises(TrainingError, match="loader process died"):
        run_out(deadly, workers=1)


class Faulty(Dataset):
    """Has a bug."""

    def __getitem__(self, index: int) -> Sample:
        raise RuntimeError("a bug")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_is_not_called_a_death(dataset: Dataset, workers: int) -> None:
    faulty = Faulty(dataset.name, dataset.split, dataset.class_names, dataset.records, dataset.report)
    with pytest.raises(RuntimeError, match="a bug"):
        run_out(faulty, workers)


def test_few_pictures_make_one_short_batch(dataset: Dataset) -> None:
    assert [len(batch.images) for batch in batches(dataset, batch=64)] == [COUNT]


def test_bad_arguments(dataset: Dataset) -> None:
    for field, value in {"mosaic": 1.5, "scale": 1.0, "hsv_h": -0.1, "degrees": float("nan")}.items():
        with pytest.raises(UsageError, match=f"augment.{field}"):
            make_loader(
                dataset, EpochOrder(len(dataset), 4), input_spec=SQUARE, augment=AugmentConfig(**{field: value})
            )
    empty = Dataset("e", "train", ("a",), [], dataset.report)
    with pytest.raises(DataError, match="no pictures"):
        make_loader(empty, EpochOrder(len(empty), 4), input_spec=SQUARE, augment=None)


@needs_bccd
def test_bccd_through_two_workers() -> None:
    spec = InputSpec(image_hw=(128, 128))
    found = batches(open_dataset(BCCD, "val"), input_spec=spec, batch=16, workers=2, augment=AugmentConfig())
    assert len(found) == 5
    assert all(len(batch.targets) > 16 for batch in found)


def test_copy_paste_adds_objects_and_is_repeatable(dataset: Dataset) -> None:
    plain = AugmentConfig(mosaic=0.5, mixup=0.0)
    with_guests = AugmentConfig(mosaic=0.5, mixup=0.0, copy_paste=1.0)
    one, again, other = (batches(dataset, augment=a) for a in (with_guests, with_guests, plain))
    assert_same(one, again)
    assert_same(one, batches(dataset, augment=with_guests, workers=2))
    assert sum(len(b.targets) for b in one) > sum(len(b.targets) for b in other)
    assert_same(batches(dataset, mosaic=False, augment=with_guests), batches(dataset, mosaic=False, augment=plain))


@pytest.mark.parametrize("augment", [None, MOVED, AugmentConfig(copy_paste=1.0)])
def test_another_input_size_shows_the_same_pictures(dataset: Dataset, augment: AugmentConfig | None) -> None:
    def at(side: int | None) -> list[Batch]:
        order = EpochOrder(COUNT, 4, 0, sizes=() if side is None else ((side, side),))
        return batches(dataset, augment=augment, order=order)

    assert_same(at(64), at(None))
    if augment is not None and augment.copy_paste:
        assert all(batch.images.shape[2:] == (96, 96) for batch in at(96))
        return
    for small, large in zip(at(64), at(128), strict=True):
        assert large.images.shape == (4, 3, 128, 128) and small.image_ids == large.image_ids
        shrunk = torch.nn.functional.avg_pool2d(large.images.float(), 2)
        same, other = ((shrunk - images.float()).abs().mean() for images in (small.images, small.images.roll(1, 0)))
        assert same < 0.6 * other
        is_large = (small.targets[:, 4:] - small.targets[:, 2:4]).amin(1) > 6
        for row in small.targets[is_large]:
            wanted = torch.cat([row[:2], 2 * row[2:]])
            assert (large.targets - wanted).abs().amax(1).min() < 2
