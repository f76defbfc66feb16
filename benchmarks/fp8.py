"""AP in FP8 and from frames that the graph letterboxes, beside int8 and float32 of the same model: ONNX Runtime.

    python benchmarks/fp8.py runs/tiny/int8 --data ../shared/data/bccd --frame 480 640

ONNX Runtime has FP8's numbers on any processor; what TensorRT builds from has the same Q/DQ, in float16 between. The
pictures of the data have the size of the frame. Nothing is timed. Writes benchmarks/results/fp8.json.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from record import RESULTS, save_result

from edgeyolo.backends import build, open_artefact
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.graph.fp8 import insert_fp8
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.spec.model import ModelRecord, ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import load_target
from edgeyolo.spec.tensor import INPUT_NAME, output_names


def main() -> None:
    """Measure each way on each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder that quantize wrote")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--frame", type=int, nargs=2, required=True, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--splits", nargs="+", default=["val", "test"])
    parser.add_argument("--out", type=Path, default=RESULTS / "fp8.json")
    args = parser.parse_args()
    name = load_json(args.model / "model.json", ModelRecord).model.name
    rows = [
        {"model": name, "split": split, "way": way, "ap": measure(args.model, way, args.data, split, tuple(args.frame))}
        for split in args.splits
        for way in ("fp32", "fp32 from frames", "int8", "int8 from frames", "fp8")
    ]
    save_result(args.out, {"frame_hw": args.frame, "rows": rows})


def measure(model: Path, way: str, data: Path, split: str, frame_hw: tuple[int, int]) -> float:
    """AP of one way on a split."""
    spec: Any = load_json(model / "model.json", ModelRecord).model
    if way.endswith("frames"):
        picture = msgspec.structs.replace(spec.input, pixels="uint8", frame_hw=frame_hw)
        spec = msgspec.structs.replace(spec, input=picture)
    precision: Any = "int8" if way.startswith("int8") else "fp32"
    with tempfile.TemporaryDirectory() as work:
        scales = None if way.startswith("fp32") else load_qparams(model / "qparams.json")
        if way == "fp8":
            session: Any = AsWritten(insert_fp8(load_onnx(model / "model.onnx"), scales).SerializeToString(), spec)
        else:
            out, target = Path(work), load_target("host-onnx")
            artefact = build(model / "model.onnx", spec, scales, target, out, precision=precision)
            session = open_artefact(out, artefact, spec)
        with contextlib.closing(session):
            score = measure_session(session, spec, open_dataset(data, split), artefact=way)
    sys.stderr.write(f"{spec.name} {split} {way}: {score.ap:.2f}\n")
    return score.ap


class AsWritten:
    """A graph whose nodes ONNX Runtime leaves where they are: it would have pools work on FP8, which it cannot."""

    def __init__(self, raw: bytes, spec: ModelSpec) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        self._names = output_names(spec.output_count)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """(1, 3, H, W) -> its maps."""
        return list(self._session.run(self._names, {INPUT_NAME: images}))

    def close(self) -> None:
        """Nothing is held."""


if __name__ == "__main__":
    main()
