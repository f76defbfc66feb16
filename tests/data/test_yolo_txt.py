"""What is particular to YOLO folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeyolo.data.dataset import check_dataset, list_splits, open_dataset
from edgeyolo.data.yolo_txt import label_path_of
from edgeyolo.spec.errors import DataError


def set_label(root: Path, text: str, *, name: str = "a") -> None:
    (root / "labels" / "train" / f"{name}.txt").write_text(text)


def problems(root: Path) -> dict[str, int]:
    return open_dataset(root, "train").report.problems


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 nan 0.5 0.2 0.2", "bad label"),
        ("0 inf 0.5 0.2 0.2", "bad label"),
        ("inf 0.5 0.5 0.2 0.2", "bad label"),
        ("0 0.5 0.5 0.2", "bad label"),
        ("0 0.5 0.5 0.2 0.2 0.9", "bad label"),
        ("0 0.5 0.5 0.2 0.2 0.2 0.2 0.2", "bad label"),
        ("ant 0.5 0.5 0.2 0.2", "bad label"),
        ("0.5 0.5 0.5 0.2 0.2", "bad label"),
        ("3 0.5 0.5 0.2 0.2", "unknown class"),
        ("-1 0.5 0.5 0.2 0.2", "unknown class"),
        ("0 0.5 0.5 0 0.2", "degenerate box"),
        ("0 0.5 0.5 0.2 -0.2", "degenerate box"),
        ("0 1e300 0.5 1e-300 0.2", "degenerate box"),
        ("0 300 200 40 40", "box outside the picture"),
        ("0 1.5 0.5 0.2 0.2", "box outside the picture"),
        ("1 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1", "duplicate box"),
    ],
)
def test_bad_lines_are_reported_and_left_out(yolo: Path, line: str, kind: str) -> None:
    set_label(yolo, f"2 0.5 0.5 0.5 0.5\n{line}\n\n")
    dataset = open_dataset(yolo, "train")
    assert dataset.report.problems == {kind: 1}
    extra = 1 if kind == "duplicate box" else 0
    assert len(dataset.records[0].boxes_xyxy) == 1 + extra
    assert "a.txt" in str(dataset.report)


def test_a_box_over_the_border_is_cut(yolo: Path) -> None:
    set_label(yolo, "0 0.0 0.5 0.5 0.5")
    dataset = open_dataset(yolo, "train")
    assert dataset.records[0].boxes_xyxy.tolist() == [[0, 15, 20, 45]]
    assert dataset.report.problems == {"box cut at the border": 1}


def test_rounding_over_the_border_is_not_a_finding(yolo: Path) -> None:
    set_label(yolo, "0 0.5 0.5 1.000001 1.000001")
    dataset = open_dataset(yolo, "train")
    assert dataset.records[0].boxes_xyxy.tolist() == [[0, 0, 80, 60]] and dataset.report.is_clean


def test_a_polygon_gives_its_box(yolo: Path) -> None:
    set_label(yolo, "1 0.25 0.5 0.5 0.25 0.75 0.5")
    assert open_dataset(yolo, "train").records[0].boxes_xyxy.tolist() == [[20, 15, 60, 30]]


def test_a_label_file_that_is_not_text(yolo: Path) -> None:
    (yolo / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00\x80")
    assert problems(yolo) == {"bad label": 1}


def test_labels_without_picture_and_broken_pictures(yolo: Path) -> None:
    (yolo / "images/train/b.png").unlink()
    (yolo / "images/train/zero.jpg").touch()
    (yolo / "images/train/text.jpg").write_text("no picture")
    dataset = open_dataset(yolo, "train")
    assert dataset.report.problems == {"missing picture": 1, "unreadable picture": 2}
    assert [record.image_path.stem for record in dataset.records] == ["a", "empty"]


def test_lists_of_pictures_and_several_entries(yolo: Path) -> None:
    (yolo / "lists").mkdir()
    (yolo / "lists/train.txt").write_text("images/train/a.png\n\n./images/train/b.png\nimages/train/gone.png\n")
    (yolo / "data.yaml").write_text(
        "path: .\ntrain: [lists/train.txt, images/val]\nvalid: ../images/val\nnames: {0: ant, 2: cat, 1: bee}\n"
    )
    assert list_splits(yolo) == ["train", "val"]
    dataset = open_dataset(yolo / "data.yaml", "train")
    assert [record.image_path.stem for record in dataset.records] == ["a", "b", "c"]
    assert dataset.report.problems == {"missing picture": 1}
    assert dataset.class_names == ("ant", "bee", "cat")
    assert len(open_dataset(yolo, "val")) == 1


def test_a_picture_listed_twice_is_used_once(yolo: Path) -> None:
    (yolo / "data.yaml").write_text("train: [images/train, images/train]\nnames: [ant, bee, cat]\n")
    dataset = open_dataset(yolo, "train")
    assert len(dataset) == 3 and dataset.report.problems == {"repeated picture": 3}


def test_labels_stand_where_images_is_called_labels() -> None:
    assert label_path_of(Path("/images/set/images/train/a.b.jpg")) == Path("/images/set/labels/train/a.b.txt")
    assert label_path_of(Path("/set/pictures/images.jpg")) == Path("/set/pictures/images.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a", "not valid YAML"),
        ("- a\n- b", "not a YAML mapping"),
        ("train: images/train", "no class names"),
        ("train: images/train\nnames: [a, a]", "more than once"),
        ("train: images/train\nnames: [a, b]\nnc: 3", "'nc' is 3"),
        ("train: images/train\nnames: {1: a, 2: b}", "must be 0 ... 1"),
        ("names: [a]", "names no split"),
        ("train: 5\nnames: [a]", "must be a path"),
        ("train: nowhere\nnames: [a]", "'nowhere' does not exist"),
        ("train: labels/train\nnames: [a]", "has no pictures"),
        ("train: images/train/a.png\nnames: [a]", "neither a folder nor a list"),
        ("train: !!python/object/apply:os.system ['true']\nnames: [a]", "not valid YAML"),
    ],
)
def test_a_broken_index_says_what_is_wrong(yolo: Path, text: str, message: str) -> None:
    (yolo / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(yolo, "train")


def test_class_names_of_a_report_follow_the_ids(yolo: Path) -> None:
    assert list(check_dataset(yolo)["val"].classes.items()) == [("ant", 0), ("bee", 0), ("cat", 1)]


def test_an_index_whose_aliases_grow_without_end_is_refused_at_once(yolo: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{last}'] * 10)}]" for last, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    for use, message in (("names: *i", "class name that is a list"), ("names: [ant]\nnc: *i", "'nc' is not a number")):
        (yolo / "data.yaml").write_text("\n".join([*lines, use, "train: images/train"]))
        with pytest.raises(DataError, match=message):
            list_splits(yolo)


def test_a_name_longer_than_names_can_be_is_missing(yolo: Path) -> None:
    (yolo / "list.txt").write_text(f"{'x' * 300}.jpg\nimages/train/a.png\n")
    index = yolo / "data.yaml"
    index.write_text(index.read_text().replace("train: images/train", "train: list.txt"))
    assert problems(yolo) == {"missing picture": 1}
    index.write_text(index.read_text().replace("list.txt", "x" * 300))
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(yolo, "train")
