"""Altered weight files: each loads or is refused by an error of ours, at once and in little memory.

    python benchmarks/fuzz_weights.py --count 20000

The files are small ones of torch.save and paddle.save with bytes changed, added, moved and taken out, inside of the
pickle and around it. Anything but tensors or a CheckpointError, or a file that takes longer than `--seconds`, is a
finding, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import random
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from record import RESULTS, save_result
from torch import nn

from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.formats import read_tensors

OPERATIONS = bytes(range(0x28, 0x99))  # of pickles
LENGTHS = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="a file that takes longer is a finding")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz_weights.json")
    args = parser.parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    findings, slowest = [], 0.0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as folder:
        for number in range(args.count):
            path = write_case(random.Random(args.seed * args.count + number), Path(folder))
            began = time.perf_counter()
            outcome = read(path)
            seconds = time.perf_counter() - began
            slowest = max(slowest, seconds)
            outcomes[outcome] += 1
            if outcome not in ("loads", "CheckpointError") or seconds > args.seconds:
                findings.append(f"case {number}: {outcome}, {seconds:.1f} s")
    result = {
        "cases": args.count,
        "seed": args.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "slowest_seconds": round(slowest, 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "outcomes": dict(sorted(outcomes.items())),
        "findings": findings,
    }
    save_result(args.out, result)
    sys.stdout.write("".join(f"{key}: {value}\n" for key, value in result.items()))
    sys.exit(1 if findings else 0)


def read(path: Path) -> str:
    """What came of it."""
    try:
        read_tensors(path)
    except CheckpointError:
        return "CheckpointError"
    except Exception as error:  # whatever else it is, it is what is looked for
        return type(error).__name__
    return "loads"


def write_case(rng: random.Random, folder: Path) -> Path:
    """One altered file."""
    kind = rng.choice(("zip", "inside of the zip", "dictionary"))
    if kind == "dictionary":
        path = folder / "altered.pdparams"
        arrays = {"a.weight": np.ones((2, 3), np.float32), "b": ("conv2d_0.w_0", np.zeros(4)), "names": {"a": "b"}}
        path.write_bytes(alter(pickle.dumps(arrays, rng.choice((2, 4))), rng))
        return path
    path = folder / "altered.pt"
    good = make_archive()
    if kind == "zip":
        path.write_bytes(alter(good, rng))
        return path
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, alter(content, rng) if name.endswith("data.pkl") or rng.random() < 0.05 else content)
    return path


def make_archive() -> bytes:
    """What torch.save writes of a checkpoint with a whole module."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU()).half()
    buffer = io.BytesIO()
    torch.save({"epoch": -1, "best": np.float64(0.5), "model": network, "ema": None, "sizes": [1, 2.5, (1,)]}, buffer)
    return buffer.getvalue()


def alter(content: bytes, rng: random.Random) -> bytes:
    """A few changes of bytes, operations, lengths and runs."""
    data = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at, other = rng.randrange(len(data)), rng.randrange(len(data))
        change = rng.randrange(6)
        if change == 0:
            data[at] = rng.randrange(256)
        elif change == 1:
            data[at] = rng.choice(OPERATIONS)
        elif change == 2:
            data[at:at] = bytes([rng.choice(OPERATIONS)]) * rng.choice((1, 2, 50))
        elif change == 3:
            del data[at : min(at + rng.choice((1, 2, 4, 20)), len(data) - 1)]
        elif change == 4:
            data[at : at + 4] = rng.choice(LENGTHS)
        else:
            data[at:at] = data[other : other + rng.choice((3, 10, 60, 300))]
    return bytes(data)


if __name__ == "__main__":
    main()
