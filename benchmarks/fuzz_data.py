"""Altered label files and pictures: a data set loads, or is refused by an error of ours, in little time and memory.

    python benchmarks/fuzz_data.py --count 20000 [--seed 0] [--only 1234]

A case is a small data set (YOLO, COCO or VOC, two splits) with one file altered: the index, a list, a label file or a
picture (JPEG, PNG, BMP, WebP, TIFF). It goes the way of a training: its splits are listed and opened, and every picture
is read. The cases run in child processes; one that dies, takes more than five seconds of processor time or a minute,
raises anything but an EdgeYoloError, or gives boxes outside of the picture is a finding, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from record import RESULTS, save_result

from edgeyolo.data.dataset import list_splits, open_dataset
from edgeyolo.spec.errors import EdgeYoloError, ImageError

HANG_S, WAIT_S = 5.0, 60.0  # of processor time, and in all
BATCH = 1000  # cases of one child
MOST_MIB = 1024
SIZE_HW = (40, 60)
NAMES = ("ant", "bee", "cat")
PICTURES = {"train": ("a.jpg", "b.png", "c.webp", "d.bmp", "e.tif"), "val": ("f.jpg",)}
BOXES = {name: [(i % 3, 4 + i, 3 + i, 20 + 2 * i, 30)] for i, name in enumerate("abcdef")}  # class, x1, y1, x2, y2
WORDS = ("nan", "inf", "-1", "0", "1e308", "1e-308", "99999999999999999999", "2147483648", "0x10", "null", "true", "[]")
WORDS += ("{}", '""', "\0", "..", "/", "/dev/zero", "*", "&a", "*a", "!!python/object:os.system", "é", "<", "]]>")
WORDS += ("NaN", "Infinity", "-Infinity", "1" * 400, "1" * 5000, "x" * 300, "~", "1.5", "1_0", "2026-01-01", "0o7")
BYTES = (b"\0", b"\xff", b"\xfe\xff", b"\n", b'"', b"{", b"[", b"<", b":", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")


def main() -> None:
    """Alter, read, count, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run one case, in this process, and keep it in ./case")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz_data.json")
    args = parser.parse_args()
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="edgeyolo-", dir=_fast_folder()) as folder:
        bases = make_bases(Path(folder))
        if args.only is not None:
            sys.stdout.write(f"{write_case(bases, args.seed, args.only, Path('case'))}\n")
            sys.stdout.write(f"{read(Path('case'))}\n")
            return
        started = time.monotonic()
        outcomes, findings, slowest = supervise(bases, args.seed, args.count, Path(folder) / "case")
        peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    if peak_mib > MOST_MIB:
        findings.append(f"a child took {peak_mib:.0f} MiB")
    result = {
        "cases": args.count,
        "seed": args.seed,
        "seconds": round(time.monotonic() - started, 1),
        "slowest_processor_seconds": round(slowest, 3),
        "peak_mib": round(peak_mib, 1),
        "outcomes": dict(sorted(outcomes.items())),
        "findings": findings,
    }
    save_result(args.out, result)
    sys.stdout.write("".join(f"{key}: {value}\n" for key, value in result.items()))
    sys.exit(1 if findings else 0)


def supervise(bases: dict[str, Path], seed: int, count: int, folder: Path) -> tuple[Counter[str], list[str], float]:
    """Child after child; what one dies of is a finding, and the next goes on after that case."""
    outcomes: Counter[str] = Counter()
    findings: list[str] = []
    slowest, number = 0.0, 0
    while number < count:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _work(bases, seed, range(number, min(number + BATCH, count)), folder, writing)
        os.close(writing)
        with os.fdopen(reading) as lines:
            for line in lines:
                case = json.loads(line)
                number = case["number"] + 1
                outcomes[case["outcome"]] += 1
                slowest = max(slowest, case["seconds"])
                if case["outcome"].startswith("FINDING"):
                    findings.append(f"case {case['number']}: {case['outcome']}")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            is_slow = status in (-signal.SIGALRM, -signal.SIGPROF)
            what = "takes too long" if is_slow else f"ends the process with {status}"
            findings.append(f"case {number}: {what}")
            number += 1
        sys.stderr.write(f"{number} cases, {len(findings)} findings\n")
    return outcomes, findings, slowest


def _work(bases: dict[str, Path], seed: int, numbers: range, folder: Path, writing: int) -> None:
    """In a child: the cases one after the other; the alarm ends it where one hangs. Does not return."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the libraries of picture formats say a lot
    with os.fdopen(writing, "w", buffering=1) as sink:
        for number in numbers:
            kind = write_case(bases, seed, number, folder)
            signal.setitimer(signal.ITIMER_PROF, HANG_S)
            signal.setitimer(signal.ITIMER_REAL, WAIT_S)
            began_s = time.process_time()
            outcome = read(folder)
            taken_s = time.process_time() - began_s
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            case = {"number": number, "outcome": outcome.format(kind=kind), "seconds": taken_s}
            sink.write(json.dumps(case) + "\n")
    os._exit(0)


def read(folder: Path) -> str:
    """What came of it: "{kind}: ..." , or "FINDING ...": as a training would, and checked."""
    kinds = set()
    try:
        for split in list_splits(folder):
            data = open_dataset(folder, split)
            for index in range(len(data)):
                try:
                    sample = data[index]
                except ImageError:
                    kinds.add("ImageError")  # training goes on with another picture
                    continue
                height, width = sample.image.shape[:2]
                boxes, ids = sample.boxes_xyxy, sample.class_ids
                is_inside = (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
                if not (is_inside and (boxes[:, 2:] > boxes[:, :2]).all() and len(boxes) == len(ids)):
                    return f"FINDING {{kind}}: boxes {boxes.tolist()} in {height}x{width}"
                if len(ids) and not (ids.min() >= 0 and ids.max() < len(data.class_names)):
                    return f"FINDING {{kind}}: class ids {ids.tolist()} of {len(data.class_names)}"
    except EdgeYoloError as error:
        kinds.add(type(error).__name__)
    except BaseException as error:  # whatever else it is, it is what is looked for
        return f"FINDING {{kind}}: {type(error).__name__}: {str(error)[:200]}".replace("{", "(").replace(
            "(kind}", "{kind}"
        )
    return "{kind}: " + (", ".join(sorted(kinds)) or "loads")


def write_case(bases: dict[str, Path], seed: int, number: int, folder: Path) -> str:
    """One data set with one altered file; says what was altered."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(sorted(bases))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bases[name], folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    labels = [path for path in files if path.suffix in (".txt", ".json", ".xml", ".yaml")]
    pictures = [path for path in files if path not in labels]
    path = rng.choice(labels) if rng.random() < 0.65 else rng.choice(pictures)
    raw = path.read_bytes()
    path.write_bytes(alter_text(rng, raw) if path in labels else alter_picture(rng, raw))
    return f"{name} {path.suffix[1:]}"


def alter_text(rng: random.Random, raw: bytes) -> bytes:
    """Words exchanged, parts repeated, moved or nested, bytes changed."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.randrange(7)
        if kind == 0:
            words = [*_number_spans(raw)] or [(0, len(raw))]
            start, end = rng.choice(words)
            raw = raw[:start] + rng.choice(WORDS).encode() + raw[end:]
        elif kind == 1:
            start, end = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
            raw = raw[:end] + raw[start:end] * rng.choice((1, 2, 30)) + raw[end:]
        elif kind == 2:
            at, deep = rng.randrange(len(raw) + 1), rng.choice((10, 1000, 100_000))
            raw = raw[:at] + rng.choice((b"[", b"{", b'{"a":', b"<a>", b"- ", b"? ", b"(")) * deep + raw[at:]
        elif kind == 3:
            start, end = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
            raw = raw[:start] + raw[end:]
        elif kind == 4:
            raw = rng.choice((b"\xef\xbb\xbf" + raw, raw.decode("utf-8", "replace").encode("utf-16"), b"", raw * 2))
        elif kind == 5:
            raw = rng.choice((BOMB_YAML, BOMB_XML, raw.replace(b"\n", b"\r\n"), raw[: rng.randrange(len(raw) + 1)]))
        else:
            at = rng.randrange(len(raw) + 1)
            raw = raw[:at] + rng.choice(BYTES) + raw[at + rng.choice((0, 1)) :]
    return raw


def alter_picture(rng: random.Random, raw: bytes) -> bytes:
    """A header of another size, bytes changed, a file cut off, or another kind of file."""
    kind = rng.randrange(5)
    if kind == 0:
        return alter_size(rng, raw)
    if kind == 1:
        return raw[: rng.randrange(len(raw))]
    if kind == 2:
        return rng.choice((b"", b"\0" * 100, b"P6 99999 99999 255\n", b"GIF89a\xff\xff\xff\xff", raw * 3))
    data = bytearray(raw)
    for _ in range(rng.choice((1, 3, 10))):
        at = rng.randrange(min(len(data), rng.choice((64, 1 << 20))))
        piece = rng.choice(BYTES)
        data[at : at + len(piece)] = piece
    return bytes(data)


def alter_size(rng: random.Random, raw: bytes) -> bytes:
    """Another size in the header, up to far more pixels than there are."""
    size = [rng.choice((0, 1, 41, 1 << 12, 30_000, 65_500, (1 << 31) - 1, (1 << 32) - 1)) for _ in range(2)]
    data = bytearray(raw)
    if raw.startswith(b"\x89PNG"):
        data[16:24] = struct.pack(">II", *size)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif raw.startswith(b"BM"):
        data[18:26] = struct.pack("<II", *size)
    elif raw.startswith(b"\xff\xd8"):
        at = raw.find(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", *(value & 0xFFFF for value in size))
    elif raw.startswith(b"RIFF"):
        data[21:30] = rng.randbytes(9)
    else:
        at = struct.unpack_from("<I", raw, 4)[0] + 2  # the first entries of a TIFF's table are width and height
        for entry, value in enumerate(size):
            data[at + 12 * entry + 8 : at + 12 * entry + 12] = struct.pack("<I", value)
    return bytes(data)


def make_bases(root: Path) -> dict[str, Path]:
    """The same small data set in each format."""
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    bases = {name: root / name for name in ("yolo", "coco", "voc")}
    for split, names in PICTURES.items():
        for name in names:
            for base, place in (("yolo", f"images/{split}"), ("coco", split), ("voc", "JPEGImages")):
                (bases[base] / place).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(bases[base] / place / name), noise)
        stems = [Path(name).stem for name in names]
        _write_yolo(bases["yolo"], split, stems)
        _write_coco(bases["coco"], split, names)
        _write_voc(bases["voc"], split, stems)
    (bases["yolo"] / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: val.txt\nnc: 3\nnames: {[*NAMES]}\n")
    (bases["yolo"] / "val.txt").write_text("images/val/f.jpg\n")
    return bases


def _write_yolo(root: Path, split: str, stems: list[str]) -> None:
    (root / "labels" / split).mkdir(parents=True)
    height, width = SIZE_HW
    for stem in stems:
        text = io.StringIO()
        for class_id, x1, y1, x2, y2 in BOXES[stem]:
            middle = f"{(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height}"
            text.write(f"{class_id} {middle} {(x2 - x1) / width} {(y2 - y1) / height}\n")
            text.write(f"1 {x1 / width} {y1 / height} {x2 / width} {y1 / height} {x2 / width} {y2 / height}\n")
        (root / "labels" / split / f"{stem}.txt").write_text(text.getvalue())


def _write_coco(root: Path, split: str, names: tuple[str, ...]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        images.append({"id": number, "file_name": name, "width": SIZE_HW[1], "height": SIZE_HW[0]})
        for class_id, x1, y1, x2, y2 in BOXES[Path(name).stem]:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 10 * class_id, **box})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 10 * i, "name": name} for i, name in enumerate(NAMES)]
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _write_voc(root: Path, split: str, stems: list[str]) -> None:
    for place in ("Annotations", "ImageSets/Main"):
        (root / place).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
    for stem in stems:
        size = f"<size><width>{SIZE_HW[1]}</width><height>{SIZE_HW[0]}</height></size>"
        objects = ""
        for class_id, *box in BOXES[stem]:
            edges = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            objects += f"<object><name>{NAMES[class_id]}</name><bndbox>{edges}</bndbox></object>"
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def _number_spans(raw: bytes) -> list[tuple[int, int]]:
    """Where words and numbers stand."""
    spans, start = [], -1
    for at, byte in enumerate([*raw, 0]):
        is_word = byte in b"0123456789.-abcdefghijklmnopqrstuvwxyz_"
        if is_word and start < 0:
            start = at
        elif not is_word and start >= 0:
            spans.append((start, at))
            start = -1
    return spans


def _fast_folder() -> Path | None:
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None


BOMB_YAML = (
    b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        f"{name}: &{name} [{','.join(['*' + last] * 10)}]\n".encode()
        for last, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + b"names: *i\ntrain: *i\nval: *i\n"
)
BOMB_XML = (
    b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">'
    + b"".join(
        f'<!ENTITY {name} "{"&" + last + ";" * 1}{"&" + last + ";"}">'.encode()
        for last, name in zip("bcdefgh", "cdefghi", strict=True)
    )
    + b"]><annotation>&i;</annotation>"
)

if __name__ == "__main__":
    main()
