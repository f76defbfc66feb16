"""What RepOptimizer gains in int8: a RepVGG network trained with branches, and as plain convolutions that learn so too.

    python benchmarks/repopt.py --data ../shared/data/bccd --out runs/repopt
        [--model yolov6n] [--epochs 30] [--image-size 256] [--seeds 0 1 2]

The scales are searched by a run of half as many epochs. Each network is quantized by int8-mse, without training, all
layers of the placement in int8. Writes benchmarks/results/repopt.json; a finished run of the same code is used again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, claim_folder, load_reusable, save_result

from edgeyolo import verbs
from edgeyolo.nn.conv import ConvAct
from edgeyolo.nn.fold import fold_model
from edgeyolo.spec.quantizing import QuantizeOptions
from edgeyolo.spec.settings import override_settings
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import load_checkpoint

FORMS = ("branches", "plain")


def main() -> None:
    """Train, quantize and measure both forms for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="yolov6n")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    report: dict[str, Any] = {"model": args.model, "epochs": args.epochs, "image_size": args.image_size, "runs": []}
    for seed in args.seeds:
        search = train(args, f"search-{seed}", seed, max(1, args.epochs // 2), rep="scaled")
        for form in FORMS:
            settings = {"rep": form} | ({"rep_scales": str(search)} if form == "plain" else {})
            checkpoint = train(args, f"{form}-{seed}", seed, args.epochs, **settings)
            report["runs"].append({"form": form, "seed": seed} | measure(args, checkpoint))
            save_result(RESULTS / "repopt.json", report)
            sys.stderr.write(f"{report['runs'][-1]}\n")


def train(args: argparse.Namespace, name: str, seed: int, epochs: int, **settings: str) -> Path:
    """The folder of a run: its last epoch counts, so that none is chosen by its score."""
    config = TrainConfig(
        model=args.model,
        epochs=epochs,
        image_size=args.image_size,
        seed=seed,
        workers=0,
        evaluate_every=epochs,
        auxiliary=False,
    )
    own = {"name": name, "epochs": epochs, "image_size": args.image_size, "model": args.model}
    out = claim_folder(args.out / name, **own)
    if not load_reusable(out / "run.json", **own):
        verbs.train(override_settings(config, settings), args.data, out, resume=(out / "last.safetensors").exists())
        save_result(out / "run.json", own)
    return out / "last.safetensors"


def measure(args: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """AP on test, float and int8, and how unequal the kernels of the folded RepVGG convolutions are."""
    folder = checkpoint.parent / "int8"
    options = QuantizeOptions(split="test")
    result = verbs.quantize(checkpoint, args.data, folder, recipe="int8-mse", options=options)
    scores = {score.artefact: {"ap": score.ap, "ap50": score.ap50} for score in result.scores}
    return {"scores": scores, "layers": result.layers, "kernel_peak": kernel_peak(checkpoint)}


def kernel_peak(checkpoint: Path) -> float:
    """Largest weight of an output channel over its root mean square, the mean over channels of the 3x3 kernels."""
    deploy = fold_model(load_checkpoint(checkpoint).model).backbone
    assert isinstance(deploy, torch.nn.Module)
    convs = [part.conv for part in deploy.modules() if isinstance(part, ConvAct) and part.conv.kernel_size == (3, 3)]
    peaks = [
        conv.weight.detach().flatten(1).abs().amax(1) / conv.weight.detach().flatten(1).norm(dim=1) for conv in convs
    ]
    sizes = [conv.weight[0].numel() ** 0.5 for conv in convs]
    return float(torch.cat([peak * size for peak, size in zip(peaks, sizes, strict=True)]).mean())


if __name__ == "__main__":
    main()
