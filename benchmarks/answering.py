"""Which stride finds the object where each picture has one, by training run, beside what the run is worth.

    python benchmarks/little.py --data ../shared/data/bccd --out runs/little --models yolox-tiny yolov8n --seeds 0 1 2
    python benchmarks/answering.py --data runs/little/white-cells runs/little/runs/white-cells-*

Runs are of anchor-free models. Over val and test, a picture counts for the stride whose map has its highest score.
Writes benchmarks/results/answering.json.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, save_result
from small_runs import SPLITS

from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.image_file import read_image
from edgeyolo.geometry.network_input import make_batch
from edgeyolo.spec.strict import load_json
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.torch_session import TorchSession

STRIDES = (8, 16, 32)


def main() -> None:
    """Look at each run and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that `little.py` made")
    parser.add_argument("--data", type=Path, required=True, help="what they were trained on")
    args = parser.parse_args()
    rows = []
    for run in args.runs:
        trained = load_json(run / "trained.json", dict)
        shares = find_strides(run, args.data)
        rows.append({key: trained[key] for key in ("model", "seed", "balance", "ap")} | {"strides": shares})
        sys.stderr.write(f"{rows[-1]}\n")
    rows.sort(key=lambda row: (row["model"], row["balance"], row["seed"]))
    save_result(RESULTS / "answering.json", {"strides": STRIDES, "rows": rows})


def find_strides(run: Path, data: Path) -> list[float]:
    """Shares of pictures by the stride that is surest of something in them."""
    source = load_checkpoint(run / "last.safetensors")
    session, spec = TorchSession(source.model), source.record.model.input
    found: Counter[int] = Counter()
    for split in SPLITS:
        for record in open_dataset(data, split).records:
            batch, _ = make_batch([read_image(Path(record.image_path))], spec)
            found[surest(session.run(batch))] += 1
    total = sum(found.values())
    return [round(found[level] / total, 3) for level in range(len(STRIDES))]


def surest(maps: Sequence[Any]) -> int:
    """The level with the highest score; its maps are classes, objectness where the model has it, and boxes."""
    kinds = len(maps) // len(STRIDES)
    scores = []
    for level in range(len(STRIDES)):
        classes, *others = maps[level * kinds : (level + 1) * kinds - 1]
        score = _sigmoid(classes.max(axis=1))
        for objectness in others:
            score = score * _sigmoid(objectness[:, 0])
        scores.append(float(score.max()))
    return int(np.argmax(scores))


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-values))


if __name__ == "__main__":
    main()
