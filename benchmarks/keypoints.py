"""What int8 costs a network of joints: OKS AP of drawn figures, in float and in int8 on every engine of this computer.

    python benchmarks/keypoints.py --work runs/keypoints                # 1,500 figures, 60 epochs
    python benchmarks/keypoints.py --work runs/few --train 60 --val 20 --epochs 2 --image-size 64   # to try it

Trains `hrnet-w18-small`, quantizes it, builds what `deploy` would and measures it in the boxes that are known, on a
split that chooses nothing. Writes benchmarks/results/keypoints.json. The drop that is allowed on ncnn and on ONNX
Runtime is one point.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from record import RESULTS, claim_folder, save_result

from edgeyolo import verbs
from edgeyolo.data.drawn_figures import draw_figures
from edgeyolo.spec.model import Score
from edgeyolo.spec.quantizing import QuantizeOptions
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.run import LAST

MODEL = "hrnet-w18-small"
ALLOWED_DROP = {"ncnn int8": 1.0, "onnxruntime int8": 1.0}


def figures(score: Score) -> dict[str, Any]:
    """What the table needs of a score."""
    return {"ap": score.ap, "ap50": score.ap50, "ap75": score.ap75, "persons": score.boxes}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as a Markdown table, with what each has lost of the first."""
    first = next(iter(rows.values()))["ap"]
    lines = ["| artefact | OKS AP | AP50 | AP75 | drop |", "|---|" + "---:|" * 4]
    for name, row in rows.items():
        cells = " | ".join(f"{value:.2f}" for value in (row["ap"], row["ap50"], row["ap75"], first - row["ap"]))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw, train, quantize, measure; a training that was stopped goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--train", type=int, default=1200, help="pictures to train on, of one to three figures each")
    parser.add_argument("--val", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--image-size", default="128x96")
    parser.add_argument("--out", type=Path, default=RESULTS / "keypoints.json")
    args = parser.parse_args()

    settings = {"train": args.train, "val": args.val, "epochs": args.epochs, "image_size": args.image_size}
    work = claim_folder(args.work, **settings)
    data, run = work / "figures", work / "run"
    if not data.is_dir():
        draw_figures(data, {"train": args.train, "val": args.val, "test": args.val}, image_hw=(240, 320))
    config = TrainConfig(
        model=MODEL, image_size=args.image_size, epochs=args.epochs, batch=16, evaluate_every=5, device="cpu"
    )
    started = time.perf_counter()
    verbs.train(config, data, run, resume=(run / LAST).is_file())
    seconds = time.perf_counter() - started
    result = verbs.quantize(run, data, work / "int8", options=QuantizeOptions(split="test"))
    rows = {score.artefact: figures(score) for score in result.scores}
    save_result(args.out, {"model": MODEL, **settings, "training_seconds": round(seconds), "rows": rows})
    sys.stdout.write(table(rows))
    for name, allowed in ALLOWED_DROP.items():
        drop = next(iter(rows.values()))["ap"] - rows[name]["ap"] if name in rows else None
        verdict = "not measured here" if drop is None else f"{drop:.2f} of {allowed} points"
        sys.stdout.write(f"{name}: {verdict}\n")


if __name__ == "__main__":
    main()
