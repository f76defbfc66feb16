"""COCO keypoints: what is read, cut out and held out, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeyolo.data.drawn_figures import draw_figures
from edgeyolo.data.hold_out import hold_out
from edgeyolo.data.keypoints import list_people_splits, open_people
from edgeyolo.geometry.crop import crop_around
from edgeyolo.spec.errors import DataError, ImageError, UnknownNameError
from edgeyolo.spec.joints import COCO_JOINTS, joint_sigmas, mirrored_joints

CATEGORY = {"id": 7, "name": "cat", "keypoints": ["head", "left_paw", "right_paw"], "skeleton": [[1, 2], [1, 3]]}
PERSON = {
    "image_id": "a",
    "category_id": 7,
    "bbox": [10, 10, 30, 40],
    "keypoints": [25, 12, 2, 15, 45, 1, 0, 0, 0],
    "area": 700,
    "iscrowd": 0,
}


def write(folder: Path, persons: list[Any], category: Any = CATEGORY, **others: Any) -> Path:
    """One picture, 80 wide and 60 high, in a file of one split."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "images" / "a.png"), np.full((60, 80, 3), 90, np.uint8))
    images = [{"id": "a", "file_name": "a.png", "width": 80, "height": 60}]
    index = {"images": images, "annotations": persons, "categories": [category]} | others
    (folder / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(index))
    return folder


def test_a_person_is_cut_out_with_its_labelled_joints(tmp_path: Path) -> None:
    folder = write(tmp_path, [PERSON])
    assert list_people_splits(folder) == ["train"]
    data = open_people(folder, "train", (64, 48))
    assert (data.class_names, data.skeleton) == (("head", "left_paw", "right_paw"), ((0, 1), (0, 2)))
    assert data.people.areas.tolist() == [700] and data.people.boxes_xyxy.tolist() == [[10, 10, 40, 50]]
    sample = data[0]
    assert sample.image.shape == (64, 48, 3) and sample.class_ids.tolist() == [0, 1]
    crop = crop_around(np.array([10, 10, 40, 50]), (64, 48), margin=1.25)
    np.testing.assert_allclose(sample.boxes_xyxy[:, :2], crop.apply(np.array([[25, 12], [15, 45]])), atol=1e-4)
    np.testing.assert_array_equal(sample.boxes_xyxy[:, :2], sample.boxes_xyxy[:, 2:])


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"keypoints": [25, 12, 2]}, "bad label"),
        ({"keypoints": [25, 12, 3, 15, 45, 1, 0, 0, 0]}, "bad label"),
        ({"keypoints": [float("nan"), 12, 2, 15, 45, 1, 0, 0, 0]}, "bad label"),
        ({"keypoints": [1e300, 12, 2, 15, 45, 1, 0, 0, 0]}, "bad label"),
        ({"keypoints": "1 2 2"}, "bad label"),
        ({"bbox": [1, 2, None, 4]}, "bad label"),
        ({"bbox": [5, 5, 0, 10]}, "degenerate box"),
        ({"bbox": [500, 5, 10, 10]}, "degenerate box"),
        ({"image_id": "b"}, "missing picture"),
    ],
)
def test_a_person_that_cannot_be_used_is_told_and_left_out(tmp_path: Path, changed: dict, kind: str) -> None:
    data = open_people(write(tmp_path, [PERSON, PERSON | changed]), "train", (64, 48))
    assert (len(data), len(data.others.picture)) == (1, 0)
    assert data.report.problems == {kind: 1}


def test_crowds_and_persons_without_joints_are_neither_learnt_nor_wrong(tmp_path: Path) -> None:
    rows = [PERSON, PERSON | {"iscrowd": 1}, PERSON | {"keypoints": [0] * 9}, PERSON | {"keypoints": None}]
    data = open_people(write(tmp_path, rows), "train", (64, 48))
    assert (len(data), len(data.others.picture)) == (1, 3)
    assert not data.report.problems


@pytest.mark.parametrize(
    ("persons", "category", "words"),
    [
        ([], CATEGORY, "no person with a labelled joint"),
        ([PERSON], {"id": 7, "name": "cat"}, "no category has keypoints"),
        ([PERSON], CATEGORY | {"skeleton": [[1, 4]]}, "skeleton"),
        ([PERSON], CATEGORY | {"keypoints": ["a", "a", "b"]}, "one name"),
        ([PERSON], CATEGORY | {"keypoints": 5}, "not a COCO file"),
        ([5], CATEGORY, "not a COCO file"),
    ],
)
def test_a_file_without_joints_to_learn_is_refused(tmp_path: Path, persons: list, category: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_people(write(tmp_path, persons, category), "train", (64, 48))


def test_other_data_and_other_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no COCO data set"):
        list_people_splits(tmp_path)
    folder = write(tmp_path, [PERSON])
    with pytest.raises(UnknownNameError, match="val"):
        open_people(folder, "val", (64, 48))
    data = open_people(folder, "train", (64, 48))
    cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((61, 80, 3), np.uint8))
    with pytest.raises(ImageError, match="80x61"):
        data[0]
    twice = write(tmp_path / "two", [PERSON], categories=[CATEGORY, CATEGORY | {"id": 8, "name": "dog"}])
    with pytest.raises(DataError, match="cat, dog"):
        open_people(twice, "train", (64, 48))


def test_drawn_figures_are_the_same_each_time_and_their_joints_are_on_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_figures(tmp_path / name, {"train": 6}, image_hw=(96, 128), seed=3)
    first, second = (open_people(tmp_path / name, "train", (64, 48)) for name in ("one", "two"))
    assert first.class_names == COCO_JOINTS and len(first) >= 6
    np.testing.assert_array_equal(first.people.joints, second.people.joints)
    np.testing.assert_array_equal(first[0].image, second[0].image)
    for box, joints in zip(first.people.boxes_xyxy, first.people.joints, strict=True):
        seen = joints[joints[:, 2] > 0, :2]
        assert (seen >= box[:2] - 3).all() and (seen <= box[2:] + 3).all()


def test_persons_of_one_picture_are_held_out_together(tmp_path: Path) -> None:
    draw_figures(tmp_path / "figures", {"train": 12}, image_hw=(96, 160))
    stays, held = hold_out(open_people(tmp_path / "figures", "train", (64, 48)), 0.3)
    assert len(held) == len(held.people.picture) > 1
    assert not set(stays.people.picture.tolist()) & set(held.people.picture.tolist())
    assert held[0].image_id == held.records[0].image_id


def test_names_say_which_joints_mirror_each_other_and_how_exact_they_are() -> None:
    mirrored = mirrored_joints(COCO_JOINTS)
    assert [COCO_JOINTS[i] for i in mirrored[:3]] == ["nose", "right_eye", "left_eye"]
    assert [mirrored[i] for i in mirrored] == list(range(17))
    official = [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]  # of pycocotools, thousandths
    assert joint_sigmas(COCO_JOINTS) == pytest.approx([sigma / 1000 for sigma in official])
    assert mirrored_joints(("tail", "left_paw")) == [0, 1] and joint_sigmas(("tail",)) == [0.05]
