"""The main job on real photographs: train, quantize, deploy, evaluate every artefact, compare raw maps.

    python benchmarks/bccd.py --data ../shared/data/bccd --out runs/tiny [--model yolov7-tiny] [--epochs 60]
        [--learning-rate 0.002] [--seed 0] [--recipe int8-mse] [--name yolov7-tiny]

Writes benchmarks/results/bccd-NAME.json, and prints tables. A finished training by the same code is used again;
one that was stopped is resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from parity import map_table
from record import RESULTS, claim_folder, save_result

from edgeyolo import verbs
from edgeyolo.backends import open_artefact
from edgeyolo.bundle import open_bundle
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.parity import MapDifference, compare_maps
from edgeyolo.quantization import quantize
from edgeyolo.quantization.calibrate.pictures import calibration_pictures
from edgeyolo.spec.model import Score
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.torch_session import TorchSession

SPLITS = ("val", "test")
TARGETS = ("host-onnx", "host-ncnn", "raspberry-pi-5")
PARITY_PICTURES = 8


class StageProgress:
    """One line on stderr per finished stage."""

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Write when `done` reaches `total`."""
        if done == total:
            sys.stderr.write(f"{stage} {text}\n")


def main() -> None:
    """Run the whole way and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="yolov7-tiny")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--learning-rate", type=float, help="the model's own if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="int8-mse")
    parser.add_argument("--name", help="of the result file; the model's if not given")
    args = parser.parse_args()

    progress = StageProgress()
    config = TrainConfig(
        model=args.model,
        epochs=args.epochs,
        image_size=args.image_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
        evaluate_every=2,
    )
    run = claim_folder(args.out, data=args.data.name, config=msgspec.to_builtins(config)) / "run"
    started = time.perf_counter()
    verbs.train(config, args.data, run, resume=(run / "last.safetensors").exists(), report=False, progress=progress)
    seconds = time.perf_counter() - started
    rows = [score_row(verbs.evaluate(run, args.data, split=split), "", run / "best.safetensors") for split in SPLITS]
    quantized = verbs.quantize(run, args.data, args.out / "int8", recipe=args.recipe, progress=progress)
    rows += [score_row(score, "", args.out / "int8" / "model.onnx") for score in quantized.scores[1:]]
    for target in TARGETS:
        bundle = args.out / f"{target}.eyb"
        verbs.deploy(args.out / "int8", target, bundle, progress=progress)
        rows += [score_row(verbs.evaluate(bundle, args.data, split=split), target, bundle) for split in SPLITS]
    differences = measure_parity(run, args.data, args.out, args.recipe)
    report = {
        "model": args.model,
        "epochs": args.epochs,
        "image_size": args.image_size,
        "learning_rate": load_checkpoint(run).record.config.learning_rate,
        "seed": args.seed,
        "recipe": args.recipe,
        "seconds": seconds,
        "rows": rows,
        "parity": msgspec.to_builtins(differences),
    }
    save_result(RESULTS / f"bccd-{args.name or args.model}.json", report)
    sys.stdout.write(score_table(rows) + "\n" + map_table(differences))


def score_row(score: Score, target: str, file: Path) -> dict[str, Any]:
    """A score, the board it was built for ("" for torch), and the bytes of the file that ships."""
    return {"target": target, "bytes": file.stat().st_size, **msgspec.to_builtins(score)}


def measure_parity(run: Path, data: Path, out: Path, recipe_name: str) -> dict[str, list[MapDifference]]:
    """Raw head maps of float and of each deployed artefact against fake-quant, on the first test pictures."""
    loaded = load_checkpoint(run)
    spec = loaded.record.model
    recipe = load_recipe(recipe_name)
    pictures, hashes = calibration_pictures(open_dataset(data, "train"), spec.input, recipe.count, recipe.seed)
    quantized = quantize(loaded.model, pictures, recipe, recipe_name=recipe_name, picture_hashes=hashes)
    reference = TorchSession(quantized.fake_quant)
    dataset = open_dataset(data, "test")
    images = [dataset[i].image for i in range(PARITY_PICTURES)]
    found = {"float torch": compare_maps(reference, TorchSession(quantized.float_deploy), images, spec.input)}
    for target in ("host-onnx", "host-ncnn"):
        with open_bundle(out / f"{target}.eyb") as bundle:
            artefact = bundle.manifest.artefact
            session = open_artefact(bundle.folder, artefact, spec)
            with contextlib.closing(session):
                found[verbs.artefact_name(artefact)] = compare_maps(reference, session, images, spec.input)
    return found


def score_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of scores."""
    lines = ["| artefact | target | split | AP | AP50 | per class |", "|---|---|---|---|---|---|"]
    for row in rows:
        classes = ", ".join(f"{name} {ap:.1f}" for name, ap in row["per_class"].items())
        figures = f"{row['ap']:.2f} | {row['ap50']:.2f} | {classes}"
        lines.append(f"| {row['artefact']} | {row['target']} | {row['split']} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
