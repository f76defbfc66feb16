"""A model that plain int8 ruins: the same function as a trained one, with outlier channels planted in its weights.

    python benchmarks/hard_case.py --checkpoint runs/bccd/run --out runs/hard [--factor 12] [--channels 2]
    python benchmarks/hard_case.py --checkpoint runs/bccd/run --out runs/hard --data ../shared/data/bccd --max-drop 0.5

A convolution's output channel is multiplied by a factor and the convolutions that read it divide theirs by the same, so
that ReLU or LeakyReLU between them (f(s x) = s f(x) for s > 0) leaves the float model as it was; but one scale per
tensor must now hold both. Writes OUT/best.safetensors, a checkpoint like any other. With --data it also measures
float, plain int8-max, and int8-max under a budget, the latter two deployed to ONNX Runtime, into
benchmarks/results/hard_case.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
from record import RESULTS, save_result
from torch import fx, nn

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.export import export_model
from edgeyolo.nn.conv import ConvBnAct
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization import Quantized, calibration_pictures, quantize
from edgeyolo.quantization.study.budget import meet_budget
from edgeyolo.quantization.study.sensitivity import measure_sensitivity
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeyolo.training.torch_session import TorchSession
from edgeyolo.verbs import measure_built

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.MaxPool2d, nn.Identity)
TOLERANCE = 1e-3
PROXY_PICTURES = 8

Joint = tuple[str, tuple[str, ...]]


def main() -> None:
    """Plant, save, and measure if there is data to measure on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factor", type=float, default=12.0)
    parser.add_argument("--channels", type=int, default=2, help="outlier channels per tensor")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--max-drop", type=float, default=0.5)
    args = parser.parse_args()

    source = load_checkpoint(args.checkpoint)
    joints = plant_outliers(source.model, factor=args.factor, channels=args.channels, seed=args.seed)
    sys.stderr.write(f"{args.channels} outlier channels at x{args.factor:g} in each of {len(joints)} tensors\n")
    weights = {f"model.{name}": tensor for name, tensor in source.model.state_dict().items()}
    record = msgspec.structs.replace(source.record, score=None, best_ap=-1.0, best_epoch=0)
    save_checkpoint(args.out / "best.safetensors", weights, record)
    if args.data is not None:
        report = measure(load_checkpoint(args.out), args.data, args.split, args.max_drop)
        report = {
            "factor": args.factor,
            "channels": args.channels,
            "split": args.split,
            "joints": [a for a, _ in joints],
            **report,
        }
        save_result(RESULTS / "hard_case.json", report)
        sys.stdout.write(json.dumps(report, indent=2) + "\n")


def plant_outliers(model: nn.Module, *, factor: float, channels: int, seed: int = 0) -> list[Joint]:
    """Multiply some channels between layers by `factor` in place, and undo it in every layer that reads them.

    Args:
        model: a trained model in training form, with ReLU or LeakyReLU.
        channels: how many of each tensor, chosen at random.

    Raises:
        ValueError: the model has no place for it, or is not the same function afterwards.
    """
    torch.manual_seed(seed)
    probe = torch.rand(1, 3, 128, 128)
    before = float_maps(model, probe)
    joints = find_joints(model)
    if not joints:
        raise ValueError("no convolution is read by convolutions alone through a homogeneous activation")
    with torch.no_grad():
        for writer, readers in joints:
            bn = block_of(model, writer).bn
            chosen = torch.randperm(len(bn.weight))[:channels]
            bn.weight[chosen] *= factor
            bn.bias[chosen] *= factor
            for path in readers:
                block_of(model, path).conv.weight[:, chosen] /= factor
    for ours, theirs in zip(before, float_maps(model, probe), strict=True):
        if float((ours - theirs).abs().max()) > TOLERANCE * float(ours.abs().max()):
            raise ValueError("the planted model is not the same function as before")
    return joints


def find_joints(model: nn.Module) -> list[Joint]:
    """Convolution -> all convolutions that read it, where nothing else does; each in a block with a batch norm."""
    deploy = fx.symbolic_trace(fold_model(model))
    modules = dict(deploy.named_modules())
    joints = []
    for node in deploy.graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d):
            readers = list(readers_of(node, modules))
            if readers and all(is_in_block(model, path) for path in (node.target, *readers)):
                joints.append((node.target, tuple(readers)))
    return joints


def readers_of(node: fx.Node, modules: dict[str, nn.Module]) -> Iterator[str]:
    """Paths of the convolutions that read a tensor through homogeneous operators; "" for any other reader."""
    for user in node.users:
        module = modules.get(str(user.target)) if user.op == "call_module" else None
        if isinstance(module, nn.Conv2d):
            yield str(user.target)
        elif isinstance(module, HOMOGENEOUS):
            yield from readers_of(user, modules)
        else:
            yield ""


def is_in_block(model: nn.Module, path: str) -> bool:
    """Whether a path of the deploy form is the convolution of a `ConvBnAct` in the training form."""
    parent, _, name = path.rpartition(".")
    return name == "conv" and isinstance(dict(model.named_modules()).get(parent), ConvBnAct)


def block_of(model: nn.Module, path: str) -> ConvBnAct:
    """The block that a convolution is part of."""
    block = model.get_submodule(path.rpartition(".")[0])
    assert isinstance(block, ConvBnAct)
    return block


@torch.no_grad()
def float_maps(model: nn.Module, probe: torch.Tensor) -> list[torch.Tensor]:
    """Raw maps of the deploy form."""
    return [raw.clone() for raw in fold_model(model)(probe)]


def measure(source: Checkpoint, data: Path, split: str, max_drop: float) -> dict[str, object]:
    """AP of float, of plain int8-max, and of int8-max under the budget, the latter two deployed to ONNX Runtime."""
    spec, dataset, recipe = source.record.model, open_dataset(data, split), load_recipe("int8-max")
    pictures, hashes = calibration_pictures(open_dataset(data, "train"), spec.input, recipe.count, recipe.seed)
    quantized = quantize(source.model, pictures, recipe, recipe_name="int8-max", picture_hashes=hashes)
    float_session = TorchSession(quantized.float_deploy)
    float_ap = measure_session(float_session, spec, dataset, artefact="float torch").ap
    sys.stderr.write(f"float AP {float_ap:.2f}\n")
    started = time.perf_counter()
    few = [picture for picture, _ in zip(pictures, range(PROXY_PICTURES), strict=False)]
    sensitivity = measure_sensitivity(quantized, few, decode=spec.decode)
    ranked = time.perf_counter()
    result = meet_budget(
        quantized,
        sensitivity.ranking(),
        float_ap=float_ap,
        max_drop=max_drop,
        measure_deployed=lambda candidate: deployed_ap(candidate, spec, dataset),
        progress=Lines(),
    )
    return {
        "float_ap": float_ap,
        "int8_max_ap": result.trail[0].ap,
        "max_drop": max_drop,
        "met": result.met,
        "met_ap": next(step.ap for step in result.trail if step.groups == result.floated),
        "floated_groups": result.floated,
        "floated_layers": sum(len(quantized.placement.groups[group].layers) for group in result.floated),
        "layers": len(quantized.placement.int8_layers()),
        "trail": msgspec.to_builtins(result.trail),
        "ranking": sensitivity.ranking(),
        "ranking_seconds": round(ranked - started, 1),
        "search_seconds": round(time.perf_counter() - ranked, 1),
    }


def deployed_ap(quantized: Quantized, spec: ModelSpec, dataset: Dataset) -> float:
    """AP of what is deployed to ONNX Runtime."""
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        folder = Path(work) / "model"
        export_model(quantized, spec, folder)
        return measure_built(folder, "host-onnx", "int8", dataset).ap


class Lines:
    """One line on stderr per step."""

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Write what the step says of itself."""
        sys.stderr.write(f"{stage} {done}: {text}\n")


if __name__ == "__main__":
    main()
