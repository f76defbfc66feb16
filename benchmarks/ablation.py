"""What each ingredient of the training recipe is worth: short runs that differ in one setting, several seeds each.

    python benchmarks/ablation.py --data ../shared/data/bccd --out runs/ablation [--variants default no-flip]

Writes benchmarks/results/ablation.json after each run. A finished run of the same code is used again and a stopped one
resumed, so that the table can grow. AP is of the last epoch's averaged weights, on the validation and test splits: no
epoch is chosen by its score.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from record import RESULTS, claim_folder, load_reusable, save_result

from edgeyolo import verbs
from edgeyolo.spec.settings import override_settings
from edgeyolo.spec.training import TrainConfig

SPLITS = ("val", "test")
VARIANTS: dict[str, dict[str, str]] = {
    "default": {},
    "no-mosaic": {"augment.mosaic": "0"},
    "no-mixup": {"augment.mixup": "0"},
    "no-scale-and-shift": {"augment.scale": "0", "augment.translate": "0"},
    "no-colour": {"augment.hsv_h": "0", "augment.hsv_s": "0", "augment.hsv_v": "0"},
    "no-flip": {"augment.flip_lr": "0"},
    "copy-paste": {"augment.copy_paste": "0.5"},
    "multi-scale": {"multi_scale": "0.25"},
    "label-smoothing": {"label_smoothing": "0.05"},
    "mosaic-to-the-end": {"close_mosaic_epochs": "0"},
    "no-average": {"ema_decay": "0"},
    "half-learning-rate": {"learning_rate": "1e-3"},
    "sgd": {"optimizer": "sgd"},
    "fp32": {"precision": "fp32"},
}


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="yolov7-nano")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        for variant in args.variants:
            runs.append(train_variant(args, variant, seed))
            save_result(RESULTS / "ablation.json", {**settings_of(args), "rows": summarise(runs), "runs": runs})
    for row in summarise(runs):
        sys.stdout.write(f"{row['variant']:20} {row['ap']:6.2f} +- {row['spread']:.2f}  {row['gain']:+.2f}\n")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What all runs have in common."""
    return {"data": args.data.name, "model": args.model, "image_size": args.image_size, "epochs": args.epochs}


def train_variant(args: argparse.Namespace, variant: str, seed: int) -> dict[str, Any]:
    """Train one variant, or read what an earlier call found."""
    own = {"variant": variant, "seed": seed}
    run = claim_folder(args.out / f"{variant}-{seed}", **settings_of(args), **own)
    if earlier := load_reusable(run / "ablation.json", **own):
        return {key: value for key, value in earlier.items() if key != "record"}
    config = TrainConfig(
        model=args.model,
        epochs=args.epochs,
        image_size=args.image_size,
        seed=seed,
        workers=0,
        evaluate_every=args.epochs,
    )
    config = override_settings(config, VARIANTS[variant])
    started = time.perf_counter()
    verbs.train(config, args.data, run, resume=(run / "last.safetensors").exists(), report=False)
    seconds = time.perf_counter() - started
    scores = {split: verbs.evaluate(run / "last", args.data, split=split) for split in SPLITS}
    row = {
        **own,
        "ap": {split: score.ap for split, score in scores.items()},
        "ap50": {split: score.ap50 for split, score in scores.items()},
        "seconds": round(seconds, 1),
    }
    save_result(run / "ablation.json", row)
    sys.stderr.write(f"{row}\n")
    return row


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per variant: mean over splits and seeds, largest distance of a seed from it, and gain over default by seed."""
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        found.setdefault(run["variant"], {})[run["seed"]] = statistics.fmean(run["ap"].values())
    default = found.get("default", {})
    rows: list[dict[str, Any]] = []
    for variant, by_seed in found.items():
        mean = statistics.fmean(by_seed.values())
        gains = [ap - default[seed] for seed, ap in by_seed.items() if seed in default]
        row = {
            "variant": variant,
            "seeds": len(by_seed),
            "ap": mean,
            "spread": max(abs(ap - mean) for ap in by_seed.values()),
            "gain": statistics.fmean(gains) if gains else float("nan"),
        }
        rows.append({name: _rounded(value) for name, value in row.items()})
    return rows


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
