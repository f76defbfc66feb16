"""The same data set in every format, and the real one."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from bccd import BCCD, needs_bccd

from edgeyolo.data.dataset import check_dataset, list_splits, open_dataset
from edgeyolo.spec.errors import DataError, ImageError, UnknownNameError


def test_every_format_gives_the_same_data_set(any_format: Path, truth) -> None:
    assert list_splits(any_format) == ["train", "val"]
    for split, pictures in truth.items():
        dataset = open_dataset(any_format, split)
        assert (dataset.name, dataset.split, dataset.class_names) == ("set", split, ("ant", "bee", "cat"))
        assert dataset.report.is_clean, dataset.report
        assert len(dataset) == len(pictures)
        by_name = {record.image_path.stem: record for record in dataset.records}
        assert len({record.image_id for record in dataset.records}) == len(pictures)
        for picture in pictures:
            record = by_name[picture.name]
            assert record.image_hw == picture.image_hw
            assert record.boxes_xyxy.dtype == np.float32 and record.class_ids.dtype == np.int64
            expected = np.array(picture.boxes_xyxy, np.float32).reshape(-1, 4)
            np.testing.assert_allclose(record.boxes_xyxy, expected, atol=1e-4)
            assert record.class_ids.tolist() == list(picture.class_ids)


def test_samples_carry_the_picture(any_format: Path, truth) -> None:
    dataset = open_dataset(any_format, "train")
    for sample, record in zip(dataset, dataset.records, strict=True):
        assert sample.image.shape == (*record.image_hw, 3) and sample.image.dtype == np.uint8
        assert sample.image_id == record.image_id
        for (x1, y1, x2, y2), class_id in zip(sample.boxes_xyxy.round().astype(int), sample.class_ids, strict=True):
            assert (sample.image[y1:y2, x1:x2, class_id] == 200).all()


def test_report_counts_and_reads_well(any_format: Path) -> None:
    report = check_dataset(any_format)["train"]
    assert (report.pictures, report.backgrounds, report.boxes) == (3, 1, 3)
    assert report.classes == {"ant": 1, "bee": 1, "cat": 1}
    text = str(report)
    assert "3 pictures (1 without objects), 3 boxes, 3 classes" in text and "no problems found" in text


def test_unknown_split_and_unknown_format(any_format: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'train'"):
        open_dataset(any_format, "trian")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"Looked for: .*COCO.*VOC.*YOLO"):
        open_dataset(tmp_path / "nothing", "train")
    with pytest.raises(DataError, match="does not exist"):
        list_splits(tmp_path / "absent")


def test_a_folder_of_two_formats_is_refused(yolo: Path, tmp_path: Path) -> None:
    (yolo / "train.json").write_text("{}")
    with pytest.raises(DataError, match="more than one format"):
        open_dataset(yolo, "train")
    assert len(open_dataset(yolo / "data.yaml", "train")) == 3


def test_broken_pictures_are_found_by_the_check_and_by_reading(any_format: Path) -> None:
    dataset = open_dataset(any_format, "train")
    broken = next(record.image_path for record in dataset.records if record.image_path.stem == "b")
    broken.write_bytes(broken.read_bytes()[:-40])
    report = check_dataset(any_format)["train"]
    assert report.problems == {"unreadable picture": 1}
    assert (report.pictures, report.boxes) == (2, 2)
    assert str(broken) in str(report)
    index = [record.image_path for record in dataset.records].index(broken)
    with pytest.raises(ImageError, match="cut off"):
        dataset[index]


def test_a_picture_of_another_size_than_its_annotation(voc: Path) -> None:
    path = voc / "JPEGImages" / "b.png"
    cv2.imwrite(str(path), np.zeros((100, 40, 3), np.uint8))
    dataset = open_dataset(voc, "train")
    with pytest.raises(ImageError, match="is 40x100 and its annotation is for 100x40"):
        dataset[1]
    assert check_dataset(voc)["train"].problems == {"wrong picture size": 1}


def test_a_split_without_any_object_cannot_be_opened(yolo: Path) -> None:
    for label in (yolo / "labels" / "val").iterdir():
        label.unlink()
    with pytest.raises(DataError, match="split 'val' has 1 usable pictures and no usable object"):
        open_dataset(yolo, "val")
    assert check_dataset(yolo)["val"].boxes == 0


def test_links_are_followed(any_format: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(any_format, target_is_directory=True)
    assert open_dataset(tmp_path / "link", "train").report.boxes == 3


@needs_bccd
def test_bccd() -> None:
    assert {"train", "val", "test"} <= set(list_splits(BCCD))
    checked = check_dataset(BCCD)
    reports = {split: checked[split] for split in ("train", "val", "test")}
    assert [report.pictures for report in reports.values()] == [205, 87, 72]
    degenerate = sum(report.problems.get("degenerate box", 0) for report in reports.values())
    assert degenerate == 2 and sum(report.boxes for report in reports.values()) + degenerate == 4888
    assert {p.where.rpartition("/")[2] for r in reports.values() for p in r.examples} == {
        "BloodImage_00338.xml",
        "BloodImage_00343.xml",
    }
    assert all(set(report.classes) == {"Platelets", "RBC", "WBC"} for report in reports.values())
    assert all(set(report.problems) <= {"degenerate box"} for report in reports.values())


@needs_bccd
def test_bccd_boxes_against_the_files() -> None:
    dataset = open_dataset(BCCD, "val")
    for record in dataset.records:
        root = ElementTree.parse(BCCD / "Annotations" / f"{record.image_id}.xml").getroot()
        expected = []
        for element in root.findall("object"):
            x1, y1, x2, y2 = (int(element.find(f"bndbox/{k}").text) for k in ("xmin", "ymin", "xmax", "ymax"))
            if x2 > x1 and y2 > y1:
                expected.append((element.find("name").text, x1 - 1, y1 - 1, x2, y2))
        found = [
            (dataset.class_names[k], *map(int, box)) for box, k in zip(record.boxes_xyxy, record.class_ids, strict=True)
        ]
        assert found == expected
