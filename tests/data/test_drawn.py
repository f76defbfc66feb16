"""The drawn data set: labels are where the shapes are, and the same seed gives the same pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import (
    CLASS_NAMES,
    CROWD_NAMES,
    EASY_COLOURS_BGR,
    draw_crowded_picture,
    draw_dataset,
    draw_easy_picture,
    draw_picture,
)


def test_same_seed_same_pictures(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "other")]
    for folder, seed in zip(folders, (5, 5, 6), strict=True):
        draw_dataset(folder, {"train": 3, "val": 1, "test": 1}, image_hw=(96, 128), seed=seed)
    contents = [{str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*.*")} for f in folders]
    assert contents[0] == contents[1]
    assert contents[0].keys() == contents[2].keys()
    assert contents[0] != contents[2]


def test_splits_do_not_share_pictures(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "data", {"train": 4, "val": 4, "test": 4}, image_hw=(64, 64))
    pictures = [path.read_bytes() for path in (tmp_path / "data/images").rglob("*.jpg")]
    assert len(set(pictures)) == 12


def test_files_say_what_was_drawn(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "data", {"train": 6, "val": 1, "test": 1}, image_hw=(96, 128), seed=3)
    for i in range(6):
        picture = draw_picture(np.random.default_rng((3, 0, i)), (96, 128))
        stored = cv2.imread(str(tmp_path / f"data/images/train/{i:04d}.jpg"))
        assert stored.shape == (96, 128, 3)
        assert np.abs(stored.astype(float) - picture.image).mean() < 12  # JPEG of a noisy picture
        text = (tmp_path / f"data/labels/train/{i:04d}.txt").read_text()
        rows = np.array([line.split() for line in text.splitlines()], float).reshape(-1, 5)
        np.testing.assert_array_equal(rows[:, 0], picture.class_ids)
        centre_px, size_px = rows[:, 1:3] * (128, 96), rows[:, 3:] * (128, 96)
        boxes_xyxy = np.concatenate((centre_px - size_px / 2, centre_px + size_px / 2), axis=1)
        np.testing.assert_allclose(boxes_xyxy, picture.boxes_xyxy, atol=2e-4)


def test_objects_are_inside_varied_and_of_every_class() -> None:
    pictures = [draw_picture(np.random.default_rng(i), (320, 320)) for i in range(60)]
    boxes_xyxy = np.concatenate([p.boxes_xyxy for p in pictures])
    class_ids = np.concatenate([p.class_ids for p in pictures])
    sides_px = np.sqrt(np.prod(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=1))
    assert (boxes_xyxy >= 0).all()
    assert (boxes_xyxy <= 320).all()
    assert sides_px.min() < 12
    assert sides_px.max() > 120
    assert set(class_ids.tolist()) == set(range(len(CLASS_NAMES)))
    assert min(len(p.class_ids) for p in pictures) == 0
    assert {p.image.dtype for p in pictures} == {np.dtype(np.uint8)}


def test_box_edges_are_where_the_picture_changes() -> None:
    """Inside a labelled box the picture differs more from its surroundings than a box moved elsewhere does."""
    inside, across = [], []
    for i in range(40):
        picture = draw_picture(np.random.default_rng(i), (320, 320))
        grey = cv2.GaussianBlur(picture.image, (0, 0), 2).astype(float)
        for x1, y1, x2, y2 in picture.boxes_xyxy.astype(int):
            if min(x2 - x1, y2 - y1) < 24 or min(x1, y1) < 12 or max(x2, y2) > 308:
                continue
            middle = (y1 + y2) // 2
            inside.append(np.abs(grey[middle, x1 - 10] - grey[middle, x1 - 5]).mean())
            across.append(np.abs(grey[middle, x1 - 5] - grey[middle, (x1 + x2) // 2]).mean())
    assert len(across) > 30
    assert np.median(across) > 2 * np.median(inside)


def test_easy_objects_are_whole_apart_and_of_their_colour() -> None:
    colours_bgr = np.array(list(EASY_COLOURS_BGR.values()), float)
    counts = []
    for i in range(40):
        picture = draw_easy_picture(np.random.default_rng(i), (120, 160))
        covered = np.zeros((120, 160), int)
        for (x1, y1, x2, y2), class_id in zip(picture.boxes_xyxy.astype(int), picture.class_ids, strict=True):
            assert 0 <= x1 < x2 <= 160 and 0 <= y1 < y2 <= 120
            covered[y1:y2, x1:x2] += 1
            middle = picture.image[(y1 + y2) // 2, (x1 + x2) // 2].astype(float)
            cosine = colours_bgr @ middle / np.linalg.norm(colours_bgr, axis=1) / np.linalg.norm(middle)
            assert cosine.argmax() == class_id
        assert covered.max() == 1
        counts.append(len(picture.class_ids))
    assert min(counts) > 0 and max(counts) > 3


def test_crowded_objects_are_small_whole_apart_and_of_every_class() -> None:
    class_ids, sides_px = [], []
    for i in range(40):
        picture = draw_crowded_picture(np.random.default_rng(i), (320, 320))
        covered = np.zeros((320, 320), int)
        for x1, y1, x2, y2 in picture.boxes_xyxy.astype(int):
            assert 0 <= x1 < x2 <= 320 and 0 <= y1 < y2 <= 320
            covered[y1:y2, x1:x2] += 1
            sides_px.append(max(x2 - x1, y2 - y1))
        assert covered.max() == 1
        class_ids += picture.class_ids.tolist()
    assert set(class_ids) == set(range(len(CROWD_NAMES)))
    assert len(class_ids) > 8 * 40
    assert 10 < min(sides_px) < 20 and 70 < max(sides_px) < 100


def test_the_easy_data_set_has_its_own_classes(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "data", {"train": 2, "val": 1, "test": 1}, image_hw=(96, 128), kind="easy")
    assert open_dataset(tmp_path / "data", "train").class_names == tuple(EASY_COLOURS_BGR)
