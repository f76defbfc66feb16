"""What the graph that TensorRT builds from costs in AP: fake-quant against the strongly typed float16 Q/DQ file.

    python benchmarks/tensorrt_qdq.py --data ../shared/data/bccd runs/cells-int8 [runs/other-int8 ...] [--out FILE.json]

Each folder is one that `edgeyolo quantize` wrote. The file is the one that goes into the bundle of a Jetson, with raw
maps and with post-processing in the graph; ONNX Runtime runs it on the CPU, where TensorRT would on the GPU. Beside it
stand the fake-quant AP that `quantize` measured and the same scales around a float32 graph, which is fake-quant in
ONNX. Post-processing in the graph gives each box its best class only; raw maps let every class of a box count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
from record import RESULTS, save_result

from edgeyolo.backends import build
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.graph.qdq import insert_qdq, load_onnx
from edgeyolo.spec.model import GraphDecode, ModelRecord, ModelSpec, Score
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Target

FAKE_QUANT = "fake-quant torch"
SPLITS = ("val", "test")


class OnnxFile:
    """A session on any ONNX file, its outputs as they are."""

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """(B, 3, H, W) -> the outputs in the file's order."""
        outputs: list[npt.NDArray[np.float32]] = self._session.run(None, {"images": images})
        return outputs

    def close(self) -> None:
        """Nothing to give back."""


def main() -> None:
    """Evaluate each folder, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS / "tensorrt_qdq.json")
    args = parser.parse_args()

    rows: list[dict[str, Any]] = []
    for folder in args.folders:
        record = load_json(folder / "model.json", ModelRecord)
        with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
            for name, path, spec in write_graphs(folder, record.model, Path(work)):
                scores = [measure(path, spec, args.data, split, name) for split in SPLITS]
                rows += [describe(record, score) for score in scores]
        save_result(args.out, {"data": args.data.name, "scores": rows})
    sys.stdout.write(table(rows))


def write_graphs(folder: Path, spec: ModelSpec, work: Path) -> Iterator[tuple[str, Path, ModelSpec]]:
    """Name, file and what its outputs are, of each graph that is compared."""
    qparams = load_qparams(folder / "qparams.json")
    reference = work / "float32.onnx"
    reference.write_bytes(insert_qdq(load_onnx(folder / "model.onnx"), qparams).SerializeToString())
    yield "float32 Q/DQ", reference, spec
    for place, name in (("host", "float16 Q/DQ, raw maps"), ("graph", "float16 Q/DQ, decoded in the graph")):
        target = Target(
            title=name, engine="tensorrt", precisions=("int8",), postprocess="graph" if place == "graph" else "host"
        )
        artefact = build(folder / "model.onnx", spec, qparams, target, work / place, precision="int8")
        yield name, work / place / "model.onnx", with_decode(spec, artefact.graph_candidates)


def with_decode(spec: ModelSpec, candidates: int) -> ModelSpec:
    """The model's spec, or that of rows decoded in the graph."""
    if not candidates:
        return spec
    return msgspec.structs.replace(spec, decode=GraphDecode(strides=spec.decode.strides, candidates=candidates))


def measure(path: Path, spec: ModelSpec, data: Path, split: str, name: str) -> Score:
    """AP of one file on one split."""
    sys.stderr.write(f"{spec.name}: {name}, {split}\n")
    return measure_session(OnnxFile(path), spec, open_dataset(data, split), artefact=name)


def describe(record: ModelRecord, score: Score) -> dict[str, Any]:
    """One row; the fake-quant AP is None on a split that `quantize` did not measure."""
    stored = {entry.split: entry for entry in record.scores if entry.artefact == FAKE_QUANT}
    fake_quant = stored[score.split].ap if score.split in stored else None
    row = {"model": record.model.name, "split": score.split, "graph": score.artefact, "ap": score.ap}
    row |= {"ap50": score.ap50, "fake_quant_ap": fake_quant, "images": score.images, "boxes": score.boxes}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """AP of each graph, and its difference from fake-quant or, where that was not measured, from float32 Q/DQ."""
    references = {(row["model"], row["split"]): row["ap"] for row in rows if row["graph"] == "float32 Q/DQ"}
    lines = ["| model | split | graph | AP | AP50 | fake-quant AP | difference |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        given = row["fake_quant_ap"]
        difference = row["ap"] - (references[row["model"], row["split"]] if given is None else given)
        shown = "not measured" if given is None else f"{given:.2f}"
        lines.append(
            f"| {row['model']} | {row['split']} | {row['graph']} | {row['ap']:.2f} | {row['ap50']:.2f} | {shown} | "
            f"{difference:+.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
