"""Pictures held out of a split: always the same ones, none of them left in it, and objects in each."""

from __future__ import annotations

import pytest

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.data.hold_out import hold_out
from edgeyolo.spec.errors import DataError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    data = draw_dataset(
        tmp_path_factory.mktemp("drawn") / "data", {"train": 30, "val": 1, "test": 1}, image_hw=(64, 64), seed=3
    )
    return open_dataset(data, "train")


def test_a_tenth_with_objects_is_set_aside(dataset: Dataset) -> None:
    stays, held = hold_out(dataset)
    ids = [{record.image_id for record in part.records} for part in (stays, held)]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == {record.image_id for record in dataset.records}
    labelled = sum(bool(len(record.class_ids)) for record in dataset.records)
    assert len(held) == round(0.1 * labelled) == 3
    assert all(len(record.class_ids) for record in held.records)
    assert stays.report.boxes + held.report.boxes == dataset.report.boxes
    assert (stays.split, held.split) == ("train", "held out of train")


def test_the_choice_is_by_name_and_not_by_order(dataset: Dataset) -> None:
    turned = Dataset(dataset.name, dataset.split, dataset.class_names, dataset.records[::-1], dataset.report)
    assert {r.image_id for r in hold_out(turned)[1].records} == {r.image_id for r in hold_out(dataset)[1].records}


def test_too_few_pictures_are_an_error(dataset: Dataset) -> None:
    one = Dataset(dataset.name, "train", dataset.class_names, dataset.records[:1], dataset.report)
    with pytest.raises(DataError, match="too few"):
        hold_out(one)


def test_a_digest_changes_with_any_label(dataset: Dataset) -> None:
    first = next(record for record in dataset.records if len(record.class_ids))
    before, kept = dataset.digest(), first.boxes_xyxy[0, 0]
    assert dataset.digest() == before
    first.boxes_xyxy[0, 0] += 1
    assert dataset.digest() != before
    first.boxes_xyxy[0, 0] = kept
    first.class_ids[0] ^= 1
    assert dataset.digest() != before
    first.class_ids[0] ^= 1
    assert dataset.digest() == before
