"""What an activation costs in int8 on ncnn: the same network with each, on this computer, all in turns.

    python benchmarks/activations.py --data ../shared/data/bccd [--model yolov7-tiny] [--image-size 640] [--rounds 15]

Random weights, which take the time that trained ones do. Prints a Markdown table: median milliseconds in int8 and in
float32, and both as a ratio to int8 with LeakyReLU in the same round; writes benchmarks/results/activations.json.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, save_result

from edgeyolo import models
from edgeyolo.backends import Session, open_artefact
from edgeyolo.backends import build as build_artefact
from edgeyolo.data.dataset import open_dataset
from edgeyolo.export import export_model
from edgeyolo.quantization import calibration_pictures, quantize
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.spec.target import load_target

ACTIVATIONS = ("leaky_relu", "relu", "hardswish", "silu")
PRECISIONS = ("int8", "fp32")
CALIBRATED_ON = 8  # pictures


def main() -> None:
    """Build all, time all, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="yolov7-tiny")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    times_ms: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as stack:
        sessions: dict[tuple[str, str], Session] = {}
        for activation in ACTIVATIONS:
            for precision, session in open_both(args, activation, Path(work) / activation).items():
                sessions[activation, precision] = session
                stack.callback(session.close)
        image = np.random.default_rng(0).random((1, 3, args.image_size, args.image_size), np.float32)
        for session in sessions.values():
            session.run(image)
        for _ in range(args.rounds):
            for key, session in sessions.items():
                started = time.perf_counter()
                session.run(image)
                times_ms.setdefault(key, []).append((time.perf_counter() - started) * 1e3)
    base = times_ms[ACTIVATIONS[0], "int8"]
    rows: list[dict[str, Any]] = [
        {
            "activation": activation,
            "precision": precision,
            "ms": round(statistics.median(found), 2),
            "ratio": round(statistics.median(a / b for a, b in zip(found, base, strict=True)), 3),
        }
        for (activation, precision), found in times_ms.items()
    ]
    settings = {"model": args.model, "image_size": args.image_size, "threads": args.threads, "rounds": args.rounds}
    save_result(RESULTS / "activations.json", {**settings, "rows": rows})
    sys.stdout.write("| activation | precision | ms | of LeakyReLU int8 |\n|---|---|---:|---:|\n")
    for row in rows:
        sys.stdout.write(f"| {row['activation']} | {row['precision']} | {row['ms']} | {row['ratio']} |\n")


def open_both(args: argparse.Namespace, activation: str, work: Path) -> dict[str, Session]:
    """A session of the network in each precision."""
    torch.manual_seed(0)
    data = open_dataset(args.data, "train")
    model = models.create(args.model, len(data.class_names), activation=activation)
    size_hw = (args.image_size, args.image_size)
    spec = ModelSpec(
        name=args.model,
        activation=activation,
        class_names=data.class_names,
        input=model.make_input_spec(size_hw),
        decode=model.decode,
    )
    recipe = load_recipe("int8-max")
    pictures, hashes = calibration_pictures(data, spec.input, count=CALIBRATED_ON, seed=0)
    condition(model, size_hw)
    quantized = quantize(model, pictures, recipe, recipe_name="int8-max", picture_hashes=hashes)
    export_model(quantized, spec, work)
    qparams, target = load_qparams(work / "qparams.json"), load_target("host-ncnn")
    sessions = {}
    for precision in PRECISIONS:
        folder = work / precision
        artefact = build_artefact(work / "model.onnx", spec, qparams, target, folder, precision=precision)  # type: ignore[arg-type]
        sessions[precision] = open_artefact(folder, artefact, spec, threads=args.threads)
    return sessions


def condition(model: torch.nn.Module, size_hw: tuple[int, int]) -> None:
    """Give batch normalisation the statistics of noise, so that random weights keep tensors in range."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(2, 3, *size_hw))
    model.eval()


if __name__ == "__main__":
    main()
