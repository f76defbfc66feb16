"""What a large data set costs, by the number of its pictures: COCO JSON, YOLO and tar shards, ten boxes a picture.

    python benchmarks/large_set.py [--pictures 1000 10000 100000 1000000] [--formats coco yolo shards]

No picture is ever decoded to open a set, so those of COCO are empty files; the others need their sizes: YOLO's are
links to one small picture, and those of the shards are as small, a thousand in each. Each set is opened in a process of
its own: seconds and processor seconds, and the most memory that it held. The order is that of an epoch at batches of
64, from its making to its last batch. Two loader processes, forked and spawned, ask for records from all over the set,
100,000 at most; what of their memory is theirs alone (USS) and what is their part of the shared (PSS) is read before
they end. Writes benchmarks/results/large_set.json after each set, and keeps the rows of other sets that the same code
has measured.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from record import RESULTS, load_reusable, save_result

BOXES = 10
SIDE = 640
IN_SHARD = 1000
BLOCK = 10_000
OPEN = Path(__file__).with_name("large_set_open.py")


def write_coco(folder: Path, count: int, rng: np.random.Generator) -> Path:
    """An index as COCO's own is written, beside empty files."""
    (folder / "images").mkdir(parents=True)
    path = folder / "train.json"
    with path.open("w") as stream:
        stream.write('{"info": {"year": 2026}, "images": [')
        for i in range(count):
            (folder / f"images/{i:07d}.jpg").touch()
            image = {"license": 1, "file_name": f"{i:07d}.jpg", "height": SIDE, "width": SIDE, "id": i}
            stream.write((", " if i else "") + json.dumps(image))
        stream.write('], "annotations": [')
        for i, boxes in enumerate(draw_boxes(count, rng)):
            rows = [
                {"segmentation": [], "area": w * h, "iscrowd": 0, "image_id": i, "bbox": [x, y, w, h],
                 "category_id": j % 3, "id": i * BOXES + j}
                for j, (x, y, w, h) in enumerate(boxes)
            ]  # fmt: skip
            stream.write((", " if i else "") + json.dumps(rows)[1:-1])
        categories = [{"supercategory": "none", "id": i, "name": name} for i, name in enumerate("abc")]
        stream.write(f'], "categories": {json.dumps(categories)}}}')
    return path


def write_yolo(folder: Path, count: int, rng: np.random.Generator) -> Path:
    """Labels beside links to one picture."""
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    picture = folder / "picture.png"
    picture.write_bytes(small_picture())
    for i, boxes in enumerate(draw_boxes(count, rng)):
        (folder / f"images/train/{i:07d}.png").symlink_to(picture.absolute())
        (folder / f"labels/train/{i:07d}.txt").write_text(yolo_text(boxes))
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nnames: [a, b, c]\n")
    return folder / "data.yaml"


def write_shards(folder: Path, count: int, rng: np.random.Generator) -> Path:
    """Tar files of pictures and YOLO's labels."""
    folder.mkdir(parents=True)
    picture, texts = small_picture(), map(yolo_text, draw_boxes(count, rng))
    for first in range(0, count, IN_SHARD):
        with tarfile.open(folder / f"train-{first // IN_SHARD:06d}.tar", "w") as archive:
            for i in range(first, min(first + IN_SHARD, count)):
                for name, raw in ((f"{i:07d}.png", picture), (f"{i:07d}.txt", next(texts).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(raw)
                    archive.addfile(member, io.BytesIO(raw))
    (folder / "classes.txt").write_text("a\nb\nc\n")
    return folder


def small_picture() -> bytes:
    """A large picture in few bytes."""
    _, png = cv2.imencode(".png", np.zeros((SIDE, SIDE), np.uint8), [cv2.IMWRITE_PNG_BILEVEL, 1])
    return png.tobytes()


def draw_boxes(count: int, rng: np.random.Generator) -> Iterator[list[list[float]]]:
    """BOXES boxes xywh inside the picture, for each of `count` pictures."""
    for first in range(0, count, BLOCK):
        shape = (min(BLOCK, count - first), BOXES, 2)
        corners, sizes = rng.uniform(0, SIDE / 2, shape), rng.uniform(8, SIDE / 2, shape)
        yield from np.concatenate([corners, sizes], axis=2).round(2).tolist()


def yolo_text(boxes_xywh: list[list[float]]) -> str:
    """Lines of a label file."""
    return "".join(
        f"{j % 3} {(x + w / 2) / SIDE:.6f} {(y + h / 2) / SIDE:.6f} {w / SIDE:.6f} {h / SIDE:.6f}\n"
        for j, (x, y, w, h) in enumerate(boxes_xywh)
    )


WRITERS = {"coco": (write_coco, "train.json"), "yolo": (write_yolo, "data.yaml"), "shards": (write_shards, "")}


def main() -> None:
    """Write, open, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--formats", nargs="+", choices=WRITERS, default=list(WRITERS))
    parser.add_argument("--work", type=Path, default=Path("runs/large"))
    parser.add_argument("--out", type=Path, default=RESULTS / "large_set.json")
    args = parser.parse_args()
    settings = {"boxes_per_picture": BOXES}
    known = load_reusable(args.out, **settings) or {"rows": []}
    rows = {_place(row): row for row in known["rows"]}
    for count in args.pictures:
        for kind in args.formats:
            write, name = WRITERS[kind]
            folder = args.work / f"{kind}-{count}"
            path = folder / name if folder.is_dir() else write(folder, count, np.random.default_rng(0))
            command = [sys.executable, str(OPEN), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = {"format": kind, **json.loads(done.stdout)}
            rows[_place(row)] = row
            sys.stdout.write(f"{row}\n")
            save_result(args.out, {**settings, "rows": [rows[place] for place in sorted(rows)]})


def _place(row: dict[str, Any]) -> tuple[int, str]:
    """Of a row in the file."""
    return row["pictures"], row["format"]


if __name__ == "__main__":
    main()
