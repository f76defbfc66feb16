"""What is particular to COCO files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgeyolo.data.dataset import check_dataset, list_splits, open_dataset
from edgeyolo.spec.errors import DataError


def index_of(root: Path) -> Path:
    return root / "annotations" / "instances_train2017.json"


def change(root: Path, key: str, *rows: object) -> None:
    content = json.loads(index_of(root).read_text())
    content[key] += rows
    index_of(root).write_text(json.dumps(content))


BOX = {"image_id": 1000, "category_id": 3, "bbox": [1, 2, 30, 40], "iscrowd": 0}


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"bbox": [float("nan"), 2, 30, 40]}, "bad label"),
        ({"bbox": [1, 2, 3]}, "bad label"),
        ({"bbox": None}, "bad label"),
        ({"bbox": ["1", 2, 3, 4]}, "bad label"),
        ({"category_id": 4}, "unknown class"),
        ({"image_id": 5}, "missing picture"),
        ({"bbox": [5, 5, 0, 10]}, "degenerate box"),
        ({"bbox": [500, 5, 10, 10]}, "box outside the picture"),
        ({"bbox": [10, 20, 30, 30]}, "duplicate box"),
    ],
)
def test_bad_annotations_are_reported_and_left_out(coco: Path, changed: dict, kind: str) -> None:
    change(coco, "annotations", BOX | changed)
    dataset = open_dataset(coco, "train")
    assert dataset.report.problems == {kind: 1} and dataset.report.boxes == 3


def test_crowds_are_kept_apart(coco: Path) -> None:
    change(coco, "annotations", BOX | {"iscrowd": 1})
    dataset = open_dataset(coco, "train")
    assert len(dataset.records[0].boxes_xyxy) == 2
    assert dataset.records[0].ignored_boxes_xyxy.tolist() == [[1, 2, 31, 42]]
    assert dataset.records[0].ignored_class_ids.tolist() == [0]
    assert (dataset.report.boxes, dataset.report.ignored_boxes) == (3, 1)


def test_pictures_that_are_not_there_and_sizes_that_are_not_given(coco: Path) -> None:
    change(coco, "images", {"id": 7, "file_name": "gone.png", "width": 5, "height": 5})
    change(coco, "images", {"id": 1000, "file_name": "a.png", "width": 80, "height": 60})
    shutil.copy(coco / "train2017/a.png", coco / "train2017/d.png")
    change(coco, "images", {"id": 8, "file_name": "d.png"})
    dataset = open_dataset(coco, "train")
    assert dataset.report.problems == {"missing picture": 1, "repeated picture": 1}
    assert dataset.records[-1].image_hw == (60, 80)


def test_one_file_alone(coco: Path, tmp_path: Path) -> None:
    assert list_splits(index_of(coco)) == ["train"]
    assert open_dataset(index_of(coco), "train").report.boxes == 3
    alone = coco / "train2017" / "labels_v2.json"
    shutil.copy(index_of(coco), alone)
    assert list_splits(alone) == ["all"] and open_dataset(alone, "all").report.boxes == 3


def test_files_named_after_splits_with_pictures_in_images(coco: Path, tmp_path: Path) -> None:
    root = tmp_path / "flat"
    shutil.copytree(coco / "train2017", root / "images" / "train")
    shutil.copy(index_of(coco), root / "train.json")
    assert open_dataset(root, "train").report.boxes == 3


def test_two_years_of_one_split_are_two_splits(coco: Path) -> None:
    shutil.copy(index_of(coco), coco / "annotations" / "instances_train2014.json")
    shutil.copytree(coco / "train2017", coco / "train2014")
    assert len(list_splits(coco)) == 3
    assert open_dataset(coco, "train2017").records[0].image_path.parent.name == "train2017"
    assert open_dataset(coco, "train").records[0].image_path.parent.name == "train2014"


def test_splits_with_other_classes_are_reported(coco: Path) -> None:
    change(coco, "categories", {"id": 91, "name": "dog"})
    assert check_dataset(coco)["val"].problems == {"class names differ": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a COCO file"),
        ("[]", "not a COCO file"),
        ('{"images": [{"id": 1}], "categories": []}', "not a COCO file"),
        ('{"images": [], "categories": []}', "lists no pictures"),
        ('{"images": [{"id": 1, "file_name": "a.png"}], "categories": []}', "no categories"),
        (
            '{"images": [{"id": 1, "file_name": "x.png"}], "categories": [{"id": 1, "name": "a"}]}',
            "none of its first 1 pictures",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}],'
            ' "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
            "category name more than once",
        ),
    ],
)
def test_a_broken_file_says_what_is_wrong(coco: Path, text: str, message: str) -> None:
    index_of(coco).write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(coco, "train")
