from __future__ import annotations

import math

import numpy as np
import pytest

from edgeyolo.data.records import Objects
from edgeyolo.training.order import EpochOrder, input_sizes, repeat_factors


def epoch_of(order: EpochOrder, epoch: int = 0) -> list[list[int]]:
    order.epoch = epoch
    return [[key.picture for key in keys] for keys in order]


def objects_of(class_ids: list[np.ndarray]) -> Objects:
    return Objects.of([(np.zeros((len(ids), 4), np.float32), ids) for ids in class_ids])


@pytest.mark.parametrize(("count", "batch", "world"), [(13, 4, 2), (13, 5, 2), (13, 5, 3), (2, 4, 2), (9, 7, 4)])
def test_shares_put_together_are_the_batches_of_one_process(count: int, batch: int, world: int) -> None:
    whole = epoch_of(EpochOrder(count, batch, 3), 5)
    orders = [EpochOrder(count, batch, 3, rank=rank, world_size=world) for rank in range(world)]
    shares = [epoch_of(order, 5) for order in orders]
    assert sum(order.share for order in orders) == min(batch, count)
    for step, pictures in enumerate(whole):
        assert pictures == [p for share in shares for p in share[step]]


def test_a_process_without_a_share_gets_a_picture_that_does_not_count() -> None:
    order = EpochOrder(3, 1, 0, rank=1, world_size=2)
    assert order.share == 1
    order = EpochOrder(3, 1, 0, rank=0, world_size=2)
    assert order.share == 0 and all(len(keys) == 1 for keys in order)


def order_of_0_1_0(count: int, seed: int, epoch: int, repeats: np.ndarray | None) -> list[tuple[int, int]]:
    """(picture, how often it came before), as the first release drew it, one picture after the other."""
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(count).tolist()
    if repeats is None:
        return [(picture, 0) for picture in shuffled]
    shift, end, found = rng.random(), 0, []
    for picture, place in zip(shuffled, np.cumsum(repeats[shuffled]), strict=True):
        begin, end = end, int(np.floor(place + shift))
        found += [(picture, again) for again in range(end - begin)]
    return [found[i] for i in rng.permutation(len(found))[: int(repeats.sum())]]


@pytest.mark.parametrize("is_balanced", [False, True])
def test_the_order_is_that_of_the_first_release(is_balanced: bool) -> None:
    """So that a run that it began goes on with the pictures that it had not seen."""
    count, batch = 1003, 10
    repeats = np.random.default_rng(0).uniform(1, 4, count) if is_balanced else None
    order = EpochOrder(count, batch, 7, repeats=repeats)
    for epoch in (0, 3):
        order.epoch = epoch
        expected = order_of_0_1_0(count, 7, epoch, repeats)
        found = [(key.picture, key.repeat) for keys in order for key in keys]
        assert found == expected[: len(order) * batch]
        assert all(type(part) is int for part in found[0])


def test_an_epoch_goes_on_where_it_was_left() -> None:
    order = EpochOrder(13, 3, 0, sizes=[(32, 32), (64, 64), (64, 96)])
    whole = list(order)
    order.first_step = 2
    assert list(order) == whole[2:] and len(order) == len(whole)


def test_repeat_factors_follow_the_formula() -> None:
    # class 0 in all four pictures, class 1 in one
    class_ids = [np.array([0, 0]), np.array([0]), np.array([0, 1]), np.array([0])]
    found = repeat_factors(objects_of([*class_ids, np.array([], np.int64)]), 0.9)
    common, rare = math.sqrt(0.9 / 0.8), math.sqrt(0.9 / 0.2)
    np.testing.assert_allclose(found, [common, common, rare, common, 1.0])
    assert (repeat_factors(objects_of(class_ids), 0.01) == 1).all()


def test_pictures_come_up_as_often_as_wanted() -> None:
    repeats = np.array([1.0, 2.5, 1.0, 4.2, 1.0, 1.3])
    order = EpochOrder(6, 1, 0, repeats=repeats)
    assert len(order) == 11
    times = np.zeros(6)
    for epoch in range(400):
        pictures = [p for keys in epoch_of(order, epoch) for p in keys]
        found = np.bincount(pictures, minlength=6)
        assert (found <= np.ceil(repeats)).all() and found.sum() == 11
        times += found
    np.testing.assert_allclose(times / 400, repeats, atol=0.1)


def test_a_repeated_picture_is_augmented_anew() -> None:
    order = EpochOrder(2, 1, 0, repeats=np.array([1.0, 3.0]))
    keys = [key for (key,) in order]
    assert len({key.entropy for key in keys}) == len(keys) == 4


def test_one_class_in_ten_thousand_is_seen_more_often() -> None:
    class_ids = [np.array([0])] * 9999 + [np.array([0, 1])]
    repeats = repeat_factors(objects_of(class_ids), 0.01)
    assert repeats[:9999].max() == 1 and repeats[9999] == pytest.approx(10)


def test_input_sizes() -> None:
    sides = [160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 480]
    assert input_sizes((320, 320), 0.5, 32) == [(side, side) for side in sides]
    assert input_sizes((64, 64), 0.2, 32) == [(64, 64)]
    assert input_sizes((64, 64), 0.0, 32) == []


def test_input_sizes_keep_the_shape_as_well_as_the_stride_lets_them() -> None:
    sizes = input_sizes((384, 640), 0.5, 32)
    assert [width for _, width in sizes] == list(range(320, 961, 32))
    for height, width in sizes:
        assert height % 32 == 0 and abs(height - width * 384 / 640) <= 16
    assert input_sizes((640, 384), 0.5, 32) == [size[::-1] for size in sizes]
    assert input_sizes((32, 640), 0.5, 32)[0] == (32, 320)


def test_every_process_draws_the_same_sizes() -> None:
    def sizes(rank: int) -> list[object]:
        order = EpochOrder(40, 2, 1, sizes=[(32, 32), (64, 64), (64, 96)], rank=rank, world_size=2)
        return [keys[0].input_hw for keys in order]

    assert sizes(0) == sizes(1) and len(set(sizes(0))) == 3
