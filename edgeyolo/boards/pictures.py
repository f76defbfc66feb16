"""One split of a data set as one file that a board can unpack: its pictures as they are, and COCO annotations."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import read_bytes
from edgeyolo.spec.progress import SILENT, Progress

SPLIT = "val"  # whatever it is called here
_DATE = (1980, 1, 1, 0, 0, 0)  # the same split is the same file


def pack_split(dataset: Dataset, path: Path, progress: Progress = SILENT) -> None:
    """Write the archive.

    Raises:
        ImageError: a picture cannot be read.
    """
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    with zipfile.ZipFile(path, "w") as archive:
        for number, record in enumerate(dataset.records, start=1):
            name = f"{number:08d}{record.image_path.suffix}"
            archive.writestr(zipfile.ZipInfo(f"{SPLIT}/{name}", _DATE), read_bytes(record.image_path))
            height, width = record.image_hw
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for is_ignored, boxes_xyxy, class_ids in (
                (0, record.boxes_xyxy, record.class_ids),
                (1, record.ignored_boxes_xyxy, record.ignored_class_ids),
            ):
                for (x1, y1, x2, y2), class_id in zip(boxes_xyxy.tolist(), class_ids.tolist(), strict=True):
                    box_xywh = (x1, y1, x2 - x1, y2 - y1)
                    found = {"id": len(annotations) + 1, "image_id": number, "category_id": class_id + 1}
                    area = box_xywh[2] * box_xywh[3]
                    annotations.append({**found, "bbox": box_xywh, "area": area, "iscrowd": is_ignored})
            progress.step("pictures for the board", number, len(dataset))
        categories = [{"id": number, "name": name} for number, name in enumerate(dataset.class_names, start=1)]
        told = {"images": images, "annotations": annotations, "categories": categories}
        archive.writestr(zipfile.ZipInfo(f"annotations/instances_{SPLIT}.json", _DATE), json.dumps(told))
