"""What is particular to VOC folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeyolo.data.dataset import list_splits, open_dataset
from edgeyolo.spec.errors import DataError


def xml_of(root: Path, name: str = "a") -> Path:
    return root / "Annotations" / f"{name}.xml"


def add_object(root: Path, text: str) -> None:
    path = xml_of(root)
    path.write_text(path.read_text().replace("</annotation>", f"<object>{text}</object></annotation>"))


def box(x1: object, y1: object, x2: object, y2: object) -> str:
    return f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<name>ant</name>" + box(30, 30, 30, 40), "degenerate box"),
        ("<name>ant</name>" + box(30, 30, 20, 40), "degenerate box"),
        ("<name>ant</name>" + box("nan", 30, 35, 40), "bad label"),
        ("<name>ant</name>" + box("", 30, 35, 40), "bad label"),
        ("<name>ant</name>", "bad label"),
        (box(3, 3, 9, 9), "unknown class"),
        ("<name>ant</name>" + box(200, 200, 300, 300), "box outside the picture"),
        ("<name>ant</name>" + box(70, 50, 90, 60), "box cut at the border"),
        ("<name>ant</name>" + box(11, 21, 40, 50), "duplicate box"),
    ],
)
def test_bad_objects_are_reported(voc: Path, text: str, kind: str) -> None:
    add_object(voc, text)
    report = open_dataset(voc, "train").report
    assert report.problems == {kind: 1} and report.boxes == 3 + (kind == "box cut at the border")


def test_a_file_with_a_zero_is_0_based(voc: Path) -> None:
    add_object(voc, "<name>bee</name>" + box(0, 4, 9, 9))
    first, second = (open_dataset(voc, "train").records[i].boxes_xyxy.tolist() for i in (0, 1))
    assert first == [[11, 21, 40, 50], [1, 1, 80, 60], [0, 4, 9, 9]]
    assert second == [[1, 1, 9, 39]]  # another file, 1-based as before


def test_difficult_objects_are_kept_apart(voc: Path) -> None:
    add_object(voc, "<name>bee</name><difficult>1</difficult>" + box(5, 5, 9, 9))
    record = open_dataset(voc, "train").records[0]
    assert record.ignored_boxes_xyxy.tolist() == [[4, 4, 9, 9]] and len(record.boxes_xyxy) == 2


def test_classes_txt_gives_the_order(voc: Path) -> None:
    (voc / "classes.txt").write_text("cat\nant\n")
    dataset = open_dataset(voc, "train")
    assert dataset.class_names == ("cat", "ant")
    assert dataset.records[0].class_ids.tolist() == [1, 0]
    assert dataset.report.problems == {"unknown class": 1}


def test_missing_files_are_reported(voc: Path) -> None:
    xml_of(voc, "b").unlink()
    (voc / "JPEGImages" / "empty.png").unlink()
    shutil.copy(xml_of(voc), xml_of(voc, "nowhere"))
    dataset = open_dataset(voc, "train")
    assert dataset.report.problems == {"missing picture": 2, "missing label file": 1}
    assert [record.image_id for record in dataset.records] == ["a"]


def test_size_comes_from_the_picture_where_the_file_has_none(voc: Path) -> None:
    path = xml_of(voc)
    path.write_text(path.read_text().replace("<width>80</width>", "<width>0</width>"))
    assert open_dataset(voc, "train").records[0].image_hw == (60, 80)


def test_without_image_sets_all_is_one_split(voc: Path) -> None:
    shutil.rmtree(voc / "ImageSets")
    assert list_splits(voc) == ["all"] and len(open_dataset(voc, "all")) == 4


BOMB = """<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><size><width>80</width><height>60</height></size><object><name>&b;</name></object></annotation>"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "DOCTYPE"),
        (BOMB.replace('"aaaaaaaaaa"', 'SYSTEM "file:///etc/hostname"'), "DOCTYPE"),
        ("<annotation>", "not valid XML"),
        ("", "not valid XML"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_unsafe_and_broken_xml_is_skipped(voc: Path, text: str, reason: str, encoding: str) -> None:
    xml_of(voc).write_bytes(text.replace('"1.0"', f'"1.0" encoding="{encoding}"').encode(encoding) if text else b"")
    report = open_dataset(voc, "train").report
    assert report.problems == {"bad label": 1} and reason in report.examples[0].what
    assert report.pictures == 2


def test_no_class_anywhere(voc: Path) -> None:
    for path in (voc / "Annotations").iterdir():
        path.write_text("<annotation/>")
    with pytest.raises(DataError, match="names no class"):
        open_dataset(voc, "train")
