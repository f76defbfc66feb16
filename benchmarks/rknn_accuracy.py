"""AP in Rockchip's simulator beside ONNX Runtime's, on the same scales and pictures: what the NPU's arithmetic costs.

    python benchmarks/rknn_accuracy.py runs/tiny-int8 runs/ppyoloe-s-int8 --data BCCD [--splits val test]

Each folder is one that `edgeyolo quantize` wrote. Results are written after each score; one that is in the file by the
same code, of the same model and split, is not taken again. Prints a Markdown table. No board was at hand: AP of the
simulator is called simulated, and times are none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec
from record import RESULTS, load_reusable, save_result

from edgeyolo import verbs
from edgeyolo.data.dataset import open_dataset
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Precision

REFERENCE = "onnxruntime int8"


def main() -> None:
    """Score what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", nargs="*", default=["val", "test"])
    parser.add_argument("--target", default="rockchip-rk3588-npu")
    parser.add_argument("--out", type=Path, default=RESULTS / "rknn_accuracy.json")
    args = parser.parse_args()
    ways: list[tuple[str, Precision]] = [("host-onnx", "fp32"), ("host-onnx", "int8"), (args.target, "int8")]
    rows: list[dict[str, Any]] = (load_reusable(args.out, target=args.target) or {"rows": []})["rows"]
    for folder in args.folders:
        record = load_json(folder / "model.json", ModelRecord)
        name = {"model": record.model.name, "onnx_sha256": record.onnx_sha256}
        for split in args.splits:
            for target, precision in ways:
                key = {**name, "split": split, "target": target, "precision": precision}
                if any(key.items() <= row.items() for row in rows):
                    continue
                score = verbs.measure_built(folder, target, precision, open_dataset(args.data, split))
                rows.append({**key, **msgspec.to_builtins(score)})
                save_result(args.out, {"target": args.target, "rows": rows})
                sys.stderr.write(f"{record.model.name} {split} {score.artefact}: {score.ap:.2f}\n")
    sys.stdout.write(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each model, split and artefact, with the difference from ONNX Runtime's int8."""
    lines = ["| model | split | artefact | AP | AP50 | AP less ONNX Runtime's int8 |", "|---|---|---|---:|---:|---:|"]
    for row in rows:
        same = [
            r
            for r in rows
            if (r["onnx_sha256"], r["split"], r["artefact"]) == (row["onnx_sha256"], row["split"], REFERENCE)
        ]
        difference = f"{row['ap'] - same[0]['ap']:+.2f}" if same and row["artefact"] != REFERENCE else ""
        cells = [row["model"], row["split"], row["artefact"], f"{row['ap']:.2f}", f"{row['ap50']:.2f}", difference]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
