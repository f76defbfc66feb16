"""What opening a large data set costs, by the number of its pictures: COCO JSON and YOLO, ten boxes for each picture.

    python benchmarks/large_set.py [--pictures 1000 10000 100000 1000000] [--work runs/large]

No picture is ever decoded to open a set, so those of COCO are empty files; YOLO needs their sizes, and all are links to
one small picture. Each set is opened in a process of its own: processor time, and the most memory that it held. The
order is that of an epoch at batches of 64, from its making to its last batch. Writes benchmarks/results/large_set.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from record import RESULTS, save_result

BOXES = 10
SIDE = 640
OPEN = """
import json, resource, sys, time
from edgeyolo.data.dataset import open_dataset
from edgeyolo.training.order import EpochOrder

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = peak_mib()
start = time.process_time()
data = open_dataset(sys.argv[1], "train")
opened = time.process_time() - start
peak = peak_mib()
start = time.process_time()
steps = sum(1 for _ in EpochOrder(len(data), 64))
ordered = time.process_time() - start
print(json.dumps({"open_s": opened, "order_s": ordered, "before_mib": before, "peak_mib": peak, "pictures": len(data)}))
"""


def write_coco(folder: Path, count: int, rng: np.random.Generator) -> Path:
    """An index beside empty files; the file that is opened."""
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    boxes_xywh = draw_boxes(count, rng)
    images, annotations = [], []
    for i in range(count):
        (pictures / f"{i:07d}.jpg").touch()
        images.append({"id": i, "file_name": f"{i:07d}.jpg", "height": SIDE, "width": SIDE})
        annotations += [{"image_id": i, "category_id": j % 3, "bbox": box} for j, box in enumerate(boxes_xywh[i])]
    categories = [{"id": i, "name": name} for i, name in enumerate("abc")]
    index = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "train.json"
    path.write_text(json.dumps(index))
    return path


def write_yolo(folder: Path, count: int, rng: np.random.Generator) -> Path:
    """Labels beside links to one picture."""
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    picture = folder / "picture.jpg"
    cv2.imwrite(str(picture), np.zeros((SIDE, SIDE, 3), np.uint8))
    boxes_xywh = draw_boxes(count, rng)
    for i in range(count):
        (folder / f"images/train/{i:07d}.jpg").symlink_to(picture.absolute())
        rows = [
            f"{j % 3} {(x + w / 2) / SIDE:.6f} {(y + h / 2) / SIDE:.6f} {w / SIDE:.6f} {h / SIDE:.6f}\n"
            for j, (x, y, w, h) in enumerate(boxes_xywh[i])
        ]
        (folder / f"labels/train/{i:07d}.txt").write_text("".join(rows))
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nnames: [a, b, c]\n")
    return folder / "data.yaml"


def draw_boxes(count: int, rng: np.random.Generator) -> list[list[list[int]]]:
    """(count, BOXES, 4) xywh inside the picture."""
    corners = rng.integers(0, SIDE // 2, (count, BOXES, 2))
    sizes = rng.integers(8, SIDE // 2, (count, BOXES, 2))
    boxes: list[list[list[int]]] = np.concatenate([corners, sizes], axis=2).tolist()
    return boxes


def main() -> None:
    """Write, open, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--work", type=Path, default=Path("runs/large"))
    parser.add_argument("--out", type=Path, default=RESULTS / "large_set.json")
    args = parser.parse_args()
    rows = []
    for count in args.pictures:
        for kind, write in (("COCO", write_coco), ("YOLO", write_yolo)):
            folder = args.work / f"{kind.lower()}-{count}"
            names = {"COCO": "train.json", "YOLO": "data.yaml"}
            path = folder / names[kind] if folder.is_dir() else write(folder, count, np.random.default_rng(0))
            done = subprocess.run([sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True, check=True)
            rows.append({"format": kind, **json.loads(done.stdout)})
            sys.stdout.write(f"{rows[-1]}\n")
    save_result(args.out, {"boxes_per_picture": BOXES, "rows": rows})


if __name__ == "__main__":
    main()
