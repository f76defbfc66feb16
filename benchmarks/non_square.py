"""One network on 16:9 pictures, at 640x640 and at 384x640: what the padding of a square costs, and what it gains.

    python benchmarks/non_square.py --checkpoint runs/cells --data ../shared/data/bccd --work WORK [--rounds 20]

Pictures of 1280x720 are made of four fields of view each, of the data set's val and test splits: two above, and of two
more the upper halves below; of an object that is cut, what shows is its box, and one of which less than half shows is
left out. Either size shows them at half their size, as the network was trained. Each row is what `deploy` writes for
this computer at either size, int8 calibrated anew for each, on 32 pictures; AP is of all pictures. Times are of whole
calls on four of them, by one thread, in turns, the order changed from round to round; the ratio is that within a round,
its median. The last row is the same at 384x640 with four pictures at a time, against one. Calibration and AP are kept
in WORK for the same code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from record import RESULTS, claim_folder, save_result

from edgeyolo import verbs
from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.runtime import Detector

SQUARE, WIDE = "640x640", "384x640"
RECIPE = 'title = "32 pictures"\nobserver = "max"\ncount = 32\n'
ROWS = (
    ("OpenVINO", "host-openvino", "int8"),
    ("NCNN", "host-ncnn", "int8"),
    ("ONNX Runtime", "host-onnx", "fp32"),
)
TOGETHER, PICTURES, THREADS, WARM_UP = 4, 4, 1, 1
FIELD_HW, FRAME_HW = (480, 640), (720, 1280)


def main() -> None:
    """Prepare, measure AP, time, and write non_square.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    work = claim_folder(args.work, checkpoint=args.checkpoint, data=args.data)
    frames = make_frames(args.data, work / "frames")
    scores = measure(args.checkpoint, args.data, frames, work)
    rows = time_rows(work, open_dataset(frames, "test"), args.rounds)
    for row in rows:
        row.update({f"ap_{size}": scores[f"{row['target']} {row['precision']} {size}"] for size in (SQUARE, WIDE)})
    save_result(
        RESULTS / "non_square.json",
        {"model": "yolov7-tiny", "data": args.data.name, "threads": THREADS, "rounds": args.rounds, "rows": rows},
    )
    for row in rows:
        say(str({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}))


def make_frames(data: Path, out: Path) -> Path:
    """A YOLO data set of 16:9 pictures."""
    if (out / "data.yaml").is_file():
        return out / "data.yaml"
    for part in ("images", "labels"):
        (out / part).mkdir(parents=True, exist_ok=True)
    fields: list[tuple[Dataset, int]] = []
    for split in ("val", "test"):
        dataset = open_dataset(data, split)
        fields += [(dataset, index) for index in range(len(dataset))]
    for number in range(len(fields) // 4):
        canvas, lines = np.zeros((*FRAME_HW, 3), np.uint8), []
        for place, (dataset, index) in enumerate(fields[4 * number : 4 * number + 4]):
            sample = dataset[index]
            assert sample.image.shape[:2] == FIELD_HW
            left, top = FIELD_HW[1] * (place % 2), FIELD_HW[0] * (place // 2)
            height = min(FIELD_HW[0], FRAME_HW[0] - top)
            canvas[top : top + height, left : left + FIELD_HW[1]] = sample.image[:height]
            for (x1, y1, x2, y2), class_id in zip(sample.boxes_xyxy.tolist(), sample.class_ids.tolist(), strict=True):
                shown = min(y2, height)
                if shown - y1 >= (y2 - y1) / 2:
                    centre = ((x1 + x2) / 2 + left, (y1 + shown) / 2 + top)
                    values = (centre[0], centre[1], x2 - x1, shown - y1)
                    shares = [value / FRAME_HW[1 - axis % 2] for axis, value in enumerate(values)]
                    lines.append(f"{class_id} " + " ".join(f"{share:.6f}" for share in shares))
        cv2.imwrite(str(out / "images" / f"{number:03d}.png"), canvas)
        (out / "labels" / f"{number:03d}.txt").write_text("\n".join(lines) + "\n")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(fields[0][0].class_names))
    (out / "data.yaml").write_text(f"path: .\ntest: images\nnames:\n{names}")
    return out / "data.yaml"


def bundle_path(work: Path, target: str, precision: str, size: str, batch: int = 1) -> Path:
    """Where a bundle is kept."""
    return work / f"{target}-{precision}-{size}-{batch}.eyb"


def measure(checkpoint: Path, data: Path, frames: Path, work: Path) -> dict[str, float]:
    """Calibrate, deploy, and take AP of every bundle."""
    kept = work / "scores.json"
    scores: dict[str, float] = json.loads(kept.read_text()) if kept.is_file() else {}
    for size in (SQUARE, WIDE):
        if not (work / size / "qparams.json").is_file():
            (work / "few.toml").write_text(RECIPE)
            options = verbs.QuantizeOptions(image_size=size, evaluate=False, doctor=False)
            verbs.quantize(checkpoint, data, work / size, recipe=str(work / "few.toml"), options=options)
        for _, target, precision in ROWS:
            key = f"{target} {precision} {size}"
            if key in scores:
                continue
            path = bundle_path(work, target, precision, size)
            verbs.deploy(work / size, target, path, precision=precision)
            scores[key] = verbs.evaluate(path, frames, split="test").ap
            say(f"{key} {scores[key]:.2f}")
            kept.write_text(json.dumps(scores))
    _, target, precision = ROWS[0]
    together = bundle_path(work, target, precision, WIDE, TOGETHER)
    if not together.is_file():
        verbs.deploy(work / WIDE, target, together, precision=precision, batch=TOGETHER)
    return scores


def time_rows(work: Path, data: Dataset, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds for a picture, and ratios, of every row."""
    images = [data[index].image for index in range(PICTURES)]
    pairs = [
        (
            name,
            target,
            precision,
            bundle_path(work, target, precision, SQUARE),
            bundle_path(work, target, precision, WIDE),
        )
        for name, target, precision in ROWS
    ]
    name, target, precision = ROWS[0]
    one = bundle_path(work, target, precision, WIDE)
    pairs.append(
        (f"{name}, four at a time", target, precision, one, bundle_path(work, target, precision, WIDE, TOGETHER))
    )
    times: dict[tuple[str, str], list[tuple[tuple[float, float], tuple[float, float]]]] = {}
    with contextlib.ExitStack() as holding:
        opened = {
            path: holding.enter_context(Detector.load(path, threads=THREADS)) for pair in pairs for path in pair[3:]
        }
        for number in range(-WARM_UP, rounds):
            for name, _, precision, before, after in pairs:
                order = (before, after) if number % 2 else (after, before)
                took = {path: time_call(opened[path], images) for path in order}
                if number >= 0:
                    times.setdefault((name, precision), []).append((took[before], took[after]))
    rows = []
    for name, target, precision, *_ in pairs:
        found = times[name, precision]
        rows.append(
            {
                "engine": name,
                "target": target,
                "precision": precision,
                "before_ms": statistics.median(before[0] for before, _ in found),
                "after_ms": statistics.median(after[0] for _, after in found),
                "ratio": statistics.median(after[0] / before[0] for before, after in found),
                "network_ratio": statistics.median(after[1] / before[1] for before, after in found),
            }
        )
    return rows


def time_call(detector: Detector, images: list[Any]) -> tuple[float, float]:
    """Milliseconds for a picture: of the whole, and in the network."""
    total = network = 0.0
    for start in range(0, len(images), detector.batch):
        detector.detect_batch(images[start : start + detector.batch])
        total, network = total + detector.timing.total_ms, network + detector.timing.network_ms
    return total / len(images), network / len(images)


def say(line: str) -> None:
    """At once, also into a file."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
