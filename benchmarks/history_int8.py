"""What int8 costs one small network of each generation, and what it costs a board: of the networks of `history.py`.

    python benchmarks/history_int8.py --data ../shared/data/bccd --out runs/history [--seeds 0 1 2] [--instructions]

AP is of ONNX Runtime, by the default recipe. With `--instructions` the instructions of one picture on an emulated
Cortex-A76 are counted, too, for the first seed of each: of what `deploy` writes for a Raspberry Pi 5, one thread. The
results, history_int8.json, are written after each network; what the same code has measured of the same weights is not
measured again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from history import GENERATIONS
from record import RESULTS, claim_folder, load_reusable, save_result
from small_runs import SPLITS, SmallRun

from edgeyolo import verbs
from edgeyolo.spec.provenance import sha256_of

OUT = RESULTS / "history_int8.json"


def main() -> None:
    """Measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, as a VOC folder")
    parser.add_argument("--out", type=Path, required=True, help="of history.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--instructions", action="store_true")
    args = parser.parse_args()
    settings = {"data": args.data.name}
    rows: list[dict[str, Any]] = (load_reusable(OUT, **settings) or {"rows": []})["rows"]
    for seed in args.seeds:
        for name in GENERATIONS:
            weights = SmallRun(args.data.name, name, seed).folder(args.out / "runs") / "last.safetensors"
            if not weights.exists():
                sys.stderr.write(f"{name}, seed {seed}: not trained yet\n")
                continue
            found = {"model": name, "seed": seed, "sha256": sha256_of(weights)}
            found = next((row for row in rows if found.items() <= row.items()), found)
            work = claim_folder(args.out / "int8" / f"{name}-{seed}", sha256=found["sha256"])
            if "ap" not in found:
                found["ap"] = evaluate_int8(weights, args.data, work)
            if args.instructions and seed == args.seeds[0] and "millions" not in found:
                found["millions"] = count_instructions(work / "int8")
            rows = [row for row in rows if (row["model"], row["seed"]) != (name, seed)] + [found]
            sys.stderr.write(f"{found}\n")
            save_result(OUT, {**settings, "rows": rows})


def evaluate_int8(weights: Path, data: Path, work: Path) -> dict[str, float]:
    """AP of the quantized network on ONNX Runtime."""
    shutil.rmtree(work / "int8", ignore_errors=True)
    bundle = work / "int8.eyb"
    verbs.quantize(weights, data, work / "int8", options=verbs.QuantizeOptions(report=False, evaluate=False))
    bundle.unlink(missing_ok=True)
    verbs.deploy(work / "int8", "host-onnx", bundle)
    return {split: verbs.evaluate(bundle, data, split=split).ap for split in SPLITS}


def count_instructions(folder: Path) -> float:
    """Millions of instructions of one picture."""
    from arm_cost import count_network

    return float(count_network(folder, "cortex-a76", "mixed")["millions"])


if __name__ == "__main__":
    main()
