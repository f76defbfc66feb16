"""The main job on real photographs: train, quantize, deploy, evaluate every artefact, compare raw maps.

    python benchmarks/bccd.py --data ../shared/data/bccd --out runs/bccd [--model yolov7-tiny] [--epochs 60]

Writes OUT/report.json and OUT/report.md. A finished training is used again; a stopped one is resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import msgspec

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

TARGETS = ("host-onnx", "host-cpu", "raspberry-pi-5")
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
    parser.add_argument("--recipe", default="int8-mse")
    args = parser.parse_args()

    progress = StageProgress()
    run = args.out / "run"
    config = TrainConfig(model=args.model, epochs=args.epochs, image_size=args.image_size, evaluate_every=2)
    started = time.perf_counter()
    verbs.train(config, args.data, run, resume=(run / "last.safetensors").exists(), report=False, progress=progress)
    seconds = time.perf_counter() - started
    scores = [verbs.evaluate(run, args.data, split=split) for split in ("val", "test")]
    scores += verbs.quantize(run, args.data, args.out / "int8", recipe=args.recipe, progress=progress).scores[1:]
    for target in TARGETS:
        bundle = args.out / f"{target}.eyb"
        verbs.deploy(args.out / "int8", target, bundle, progress=progress)
        scores += [verbs.evaluate(bundle, args.data, split=split, record=True) for split in ("val", "test")]
    differences = measure_parity(run, args.data, args.out, args.recipe)
    report = {
        "model": args.model,
        "epochs": args.epochs,
        "train_seconds": seconds,
        "scores": msgspec.to_builtins(scores),
        "parity": msgspec.to_builtins(differences),
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    text = score_table(scores) + "\n" + parity_table(differences)
    (args.out / "report.md").write_text(text)
    sys.stdout.write(text)


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
    for target in ("host-onnx", "host-cpu"):
        with open_bundle(out / f"{target}.eyb") as bundle:
            artefact = bundle.manifest.artefact
            session = open_artefact(bundle.folder, artefact, spec)
            with contextlib.closing(session):
                found[verbs.artefact_name(artefact)] = compare_maps(reference, session, images, spec.input)
    return found


def score_table(scores: list[Score]) -> str:
    """A Markdown table of scores."""
    lines = ["| artefact | split | AP | AP50 | per class |", "|---|---|---|---|---|"]
    for s in scores:
        classes = ", ".join(f"{name} {ap:.1f}" for name, ap in s.per_class.items())
        lines.append(f"| {s.artefact} | {s.split} | {s.ap:.2f} | {s.ap50:.2f} | {classes} |")
    return "\n".join(lines) + "\n"


def parity_table(differences: dict[str, list[MapDifference]]) -> str:
    """A Markdown table of map differences against fake-quant."""
    lines = ["| against fake-quant | map | rms / std | max / range | correlation |", "|---|---|---|---|---|"]
    for name, rows in differences.items():
        for row in rows:
            figures = f"{row.relative_rms:.4f} | {row.relative_max:.4f} | {row.correlation:.6f}"
            lines.append(f"| {name} | {row.map_name} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
