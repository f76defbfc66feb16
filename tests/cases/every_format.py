"""One small data set, written in each format: two splits, pictures of different shapes, one without objects."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np


@dataclass(frozen=True)
class Picture:
    name: str
    image_hw: tuple[int, int]
    boxes_xyxy: tuple[tuple[int, int, int, int], ...]
    class_ids: tuple[int, ...]


CLASS_NAMES = ("ant", "bee", "cat")
TRUTH = {
    "train": (
        Picture("a", (60, 80), ((10, 20, 40, 50), (0, 0, 80, 60)), (0, 2)),
        Picture("b", (40, 100), ((1, 1, 9, 39),), (1,)),
        Picture("empty", (30, 30), (), ()),
    ),
    "val": (Picture("c", (50, 50), ((5, 5, 25, 45),), (2,)),),
}


def paint(picture: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*picture.image_hw, 3), 90, np.uint8)
    for (x1, y1, x2, y2), class_id in zip(picture.boxes_xyxy, picture.class_ids, strict=True):
        image[y1:y2, x1:x2, class_id] = 200
    cv2.imwrite(str(path), image)


def write_yolo(root: Path) -> Path:
    for split, pictures in TRUTH.items():
        (root / "labels" / split).mkdir(parents=True)
        for picture in pictures:
            paint(picture, root / "images" / split / f"{picture.name}.png")
            height, width = picture.image_hw
            lines = [
                f"{k} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}"
                for (x1, y1, x2, y2), k in zip(picture.boxes_xyxy, picture.class_ids, strict=True)
            ]
            if lines:
                (root / "labels" / split / f"{picture.name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnc: 3\nnames: [ant, bee, cat]\n")
    return root


def coco_content(split: str) -> dict[str, list[dict[str, object]]]:
    category_ids = (3, 17, 90)  # with gaps, as in COCO itself
    images, annotations = [], []
    for image_id, picture in enumerate(TRUTH[split], 1000):
        height, width = picture.image_hw
        images.append({"id": image_id, "file_name": f"{picture.name}.png", "width": width, "height": height})
        for (x1, y1, x2, y2), k in zip(picture.boxes_xyxy, picture.class_ids, strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[k],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
    categories = [{"id": i, "name": n, "supercategory": ""} for i, n in zip(category_ids, CLASS_NAMES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories[::-1]}


def write_coco(root: Path) -> Path:
    """annotations/instances_train2017.json and folders train2017, val2017."""
    (root / "annotations").mkdir(parents=True)
    for split, pictures in TRUTH.items():
        for picture in pictures:
            paint(picture, root / f"{split}2017" / f"{picture.name}.png")
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(coco_content(split)))
        (root / "annotations" / f"captions_{split}2017.json").write_text("{}")
    return root


def write_exported_coco(root: Path) -> Path:
    """train/_annotations.coco.json and valid/_annotations.coco.json, each among its pictures."""
    for split, folder in {"train": root / "train", "val": root / "valid"}.items():
        for picture in TRUTH[split]:
            paint(picture, folder / f"{picture.name}.png")
        (folder / "_annotations.coco.json").write_text(json.dumps(coco_content(split)))
    return root


def voc_xml(picture: Picture, *, first: int = 1) -> str:
    objects = "".join(
        f"<object><name>{CLASS_NAMES[k]}</name><difficult>0</difficult><bndbox><xmin>{x1 + first}</xmin>"
        f"<ymin>{y1 + first}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for (x1, y1, x2, y2), k in zip(picture.boxes_xyxy, picture.class_ids, strict=True)
    )
    height, width = picture.image_hw
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


def write_voc(root: Path) -> Path:
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, pictures in TRUTH.items():
        for picture in pictures:
            paint(picture, root / "JPEGImages" / f"{picture.name}.png")
            (root / "Annotations" / f"{picture.name}.xml").write_text(voc_xml(picture))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(p.name for p in pictures) + "\n")
    (root / "ImageSets" / "Main" / "ant_train.txt").write_text("a  1\nb -1\n")
    return root


WRITERS = {"yolo": write_yolo, "coco": write_coco, "exported-coco": write_exported_coco, "voc": write_voc}
