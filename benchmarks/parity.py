"""How far the engines are from fake-quant torch, and from one another, on real pictures.

    python benchmarks/parity.py FOLDER --data ../shared/data/bccd [--split test] [--pictures 16] [--out parity.json]

FOLDER is what `edgeyolo quantize` wrote. Raw head maps of float torch, ONNX Runtime Q/DQ and ncnn int8 are compared
with those of fake-quant torch, and every int8 tensor of the Q/DQ graph with fake-quant, integer by integer.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx
from record import save_result
from reopen import reopen_quantized

from edgeyolo.backends import Session, build, open_artefact
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.parity import MapDifference, compare_maps
from edgeyolo.export.integers import IntegerDifference, compare_integers, differing_part
from edgeyolo.geometry.network_input import make_input
from edgeyolo.spec.detections import Image
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.target import load_target
from edgeyolo.training.torch_session import TorchSession

TARGETS = {"onnxruntime int8": "host-onnx", "ncnn int8": "host-ncnn"}
WORST_SHOWN = 10


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--out", type=Path, help="also write everything as JSON")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)

    dataset = open_dataset(args.data, args.split)
    images = [dataset[i].image for i in range(min(args.pictures, len(dataset)))]
    maps, integers = measure(args.folder, images)
    sys.stdout.write(map_table(maps) + "\n" + integer_table(integers))
    if args.out:
        record = {
            "folder": args.folder.name,
            "data": dataset.name,
            "split": dataset.split,
            "pictures": len(images),
            "maps": msgspec.to_builtins(maps),
            "integers_differing": differing_part(integers),
            "integers_differing_alone": differing_part(integers, alone=True),
            "integers": msgspec.to_builtins(integers),
        }
        save_result(args.out, record)


def measure(folder: Path, images: Sequence[Image]) -> tuple[dict[str, list[MapDifference]], list[IntegerDifference]]:
    """Map differences of each artefact, and integer differences of ONNX Runtime, against fake-quant torch."""
    quantized, spec = reopen_quantized(folder)
    reference = TorchSession(quantized.fake_quant)
    maps = {"float torch": compare_maps(reference, TorchSession(quantized.float_deploy), images, spec.input)}
    with contextlib.ExitStack() as stack:
        sessions = {name: open_int8(folder, target, spec, stack) for name, target in TARGETS.items()}
        for name, session in sessions.items():
            maps[name] = compare_maps(reference, session, images, spec.input)
        first, second = sessions
        maps[f"{second} against {first}"] = compare_maps(sessions[first], sessions[second], images, spec.input)
    batches = (make_input(image, spec.input)[0] for image in images)
    model = onnx.load(folder / "model.onnx")
    return maps, compare_integers(quantized, model, load_qparams(folder / "qparams.json"), batches)


def open_int8(folder: Path, target: str, spec: ModelSpec, stack: contextlib.ExitStack) -> Session:
    """Build the folder's model for a target and open it, until `stack` closes."""
    out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeyolo-")))
    qparams = load_qparams(folder / "qparams.json")
    artefact = build(folder / "model.onnx", spec, qparams, load_target(target), out, precision="int8")
    session = open_artefact(out, artefact, spec)
    stack.callback(session.close)
    return session


def map_table(maps: dict[str, list[MapDifference]]) -> str:
    """A Markdown table of map differences."""
    lines = ["| against fake-quant | map | rms / std | max / range | correlation |", "|---|---|---|---|---|"]
    for name, rows in maps.items():
        for row in rows:
            figures = " | ".join(
                "-" if v is None else f"{v:.7f}" for v in (row.relative_rms, row.relative_max, row.correlation)
            )
            lines.append(f"| {name} | {row.map_name} | {figures} |")
    return "\n".join(lines) + "\n"


def integer_table(integers: Sequence[IntegerDifference]) -> str:
    """A Markdown table of the whole, and of the tensors that differ most."""
    values, largest = sum(row.values for row in integers), max(row.largest for row in integers)
    ties = sum(row.ties for row in integers)
    free, alone = differing_part(integers), differing_part(integers, alone=True)
    lines = [
        f"{values:,} integers in {len(integers)} int8 tensors, fake-quant torch against ONNX Runtime:",
        f"{free:.4%} differ, by at most {largest} steps, when each runs on its own values from the picture on;",
        f"{alone:.6%} differ where all earlier tensors hold the same integers; {ties} are ties.",
        "",
        "| tensor | group | values | differ | differ alone | largest, steps |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(integers, key=lambda row: -row.differing / row.values)[:WORST_SHOWN]:
        rates = f"{row.differing / row.values:.4%} | {row.differing_alone / row.values:.6%}"
        lines.append(f"| {row.tensor} | {row.group} | {row.values:,} | {rates} | {row.largest} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
