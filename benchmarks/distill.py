"""Does a teacher help? The same student with and without one, over several seeds.

    python benchmarks/distill.py --data ../shared/data/bccd --teacher runs/bccd/run --out runs/distill
        [--student yolov7-nano] [--epochs 60] [--image-size 320] [--seeds 0 1 2] [--set distill.head=0.5 ...]

Writes benchmarks/results/distill.json after each run. A finished run of the same code is used again; a stopped one is
resumed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from record import RESULTS, claim_folder, load_reusable, save_result

from edgeyolo import verbs
from edgeyolo.spec.model import Score
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.settings import override_settings
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import checkpoint_path, load_checkpoint

SPLITS = ("val", "test")


def main() -> None:
    """Train every run, measure its last epoch, so that none is chosen by its score, and write what was found so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True, help="a checkpoint, or the folder of a run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--student", default="yolov7-nano")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="settings", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()

    teacher = checkpoint_path(args.teacher)
    report: dict[str, Any] = {
        "student": args.student,
        "teacher": {
            "model": load_checkpoint(teacher).record.model.name,
            "sha256": sha256_of(teacher),
            "scores": scores_of(teacher, args.data),
        },
        "epochs": args.epochs,
        "image_size": args.image_size,
        "settings": args.settings,
        "runs": [],
    }
    for seed in args.seeds:
        for is_taught in (False, True):
            report["runs"].append(run_one(args, teacher if is_taught else None, seed))
            report["summary"] = summarise(report["runs"])
            save_result(RESULTS / "distill.json", report)
    sys.stdout.write(table(report["summary"]))


def run_one(args: argparse.Namespace, teacher: Path | None, seed: int) -> dict[str, Any]:
    """One training and its scores; seconds are of this process, so of a resumed run only the rest."""
    name = f"{'taught' if teacher else 'alone'}-{seed}"
    config = TrainConfig(
        model=args.student,
        epochs=args.epochs,
        image_size=args.image_size,
        seed=seed,
        workers=0,
        evaluate_every=args.epochs,
    )
    pairs = [pair.split("=", 1) for pair in args.settings if teacher or not pair.startswith("distill.")]
    if teacher is not None:
        pairs.append(["teacher", str(teacher)])
    config = override_settings(config, dict(pairs))
    own = {"name": name, "epochs": args.epochs, "image_size": args.image_size, "settings": args.settings}
    own |= {"student": args.student, "teacher": sha256_of(teacher) if teacher else ""}
    out = claim_folder(args.out / name, **own)
    if earlier := load_reusable(out / "distill.json", **own):
        return {key: earlier[key] for key in ("name", "taught", "seed", "seconds", "scores")}
    started = time.perf_counter()
    result = verbs.train(config, args.data, out, resume=(out / "last.safetensors").exists())
    seconds = time.perf_counter() - started
    scores = scores_of(result.last, args.data)
    found = ", ".join(f"{split} AP {score['ap']:.2f}" for split, score in scores.items())
    sys.stderr.write(f"{name}: {found}\n")
    row = {"name": name, "taught": teacher is not None, "seed": seed, "seconds": seconds, "scores": scores}
    save_result(out / "distill.json", row | own)
    return row


def scores_of(checkpoint: Path, data: Path) -> dict[str, Any]:
    """COCO scores of a checkpoint by split."""
    scores: list[Score] = [verbs.evaluate(checkpoint, data, split=split) for split in SPLITS]
    return {score.split: msgspec.to_builtins(score) for score in scores}


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, with and without the teacher."""
    rows = []
    for is_taught in (False, True):
        for split in SPLITS:
            for field in ("ap", "ap50"):
                values = [run["scores"][split][field] for run in runs if run["taught"] == is_taught]
                if values:
                    spread = statistics.stdev(values) if len(values) > 1 else None
                    mean = statistics.mean(values)
                    rows.append({"taught": is_taught, "split": split, "field": field, "mean": mean, "stdev": spread})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The summary for people."""
    lines = ["| taught | split | | mean | stdev |", "|---|---|---|---|---|"]
    for row in rows:
        spread = "-" if row["stdev"] is None else f"{row['stdev']:.2f}"
        taught = "yes" if row["taught"] else "no"
        lines.append(f"| {taught} | {row['split']} | {row['field'].upper()} | {row['mean']:.2f} | {spread} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
