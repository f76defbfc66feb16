"""Instructions of one picture on emulated ARM cores: our bundles, ncnn's own precisions, ONNX Runtime and OpenVINO.

    python benchmarks/arm_cost.py runs/tiny-int8 runs/pps-int8 [--cores cortex-a76] [--modes mixed int8] [--layers]
    python benchmarks/arm_cost.py runs/tiny-int8 --data ../shared/data/bccd --modes mixed int8       # AP, not counts

Each source is a folder that `edgeyolo quantize` wrote; one thread, one picture. Results are written after each network
and core; what the file has of others stays. The wheels of the peers are fetched once, into the user's cache. Counts are
the same from run to run, and no milliseconds: caches, dual issue and memory bandwidth are not in them. Prints millions.
AP (val and test) is of the very bundles of a core, run by this computer's ncnn: int8 sums are the same integers there,
floats are not quite (`tests/arm/test_arm.py` compares the maps on emulated cores).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from record import RESULTS, ROOT, save_result

from edgeyolo import backends
from edgeyolo.graph.qdq import insert_qdq, load_onnx
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Precision, load_target

sys.path.insert(0, str(ROOT / "tests/arm"))
import setup_arm
from counting import count, emulated_python

OUT = RESULTS / "arm_cost.json"
TARGETS = {"cortex-a53": "raspberry-pi-3", "cortex-a72": "raspberry-pi-4", "cortex-a76": "raspberry-pi-5"}
PRECISIONS: tuple[Precision, ...] = ("mixed", "int8", "fp16", "bf16", "fp32")
PEERS = ("onnxruntime fp32", "onnxruntime int8", "openvino")
MODES = (*PRECISIONS, *PEERS)


def main() -> None:
    """Count every network on every core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--cores", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--data", type=Path, help="measure AP of bundles on this data set instead of counting")
    parser.add_argument("--layers", action="store_true", help="print the layers too")
    args = parser.parse_args()
    found: dict[str, Any] = json.loads(OUT.read_text()) if OUT.is_file() else {}
    if args.data is not None:
        measure_ap(args, found)
        return
    rows: list[dict[str, Any]] = found.get("rows", [])
    for source in args.sources:
        for core in args.cores:
            for mode in args.modes:
                row = count_network(source, core, mode)
                rows = [old for old in rows if key(old) != key(row)] + [row]
                save_result(OUT, {"rows": sorted(rows, key=key), "ap": found.get("ap", [])})
                sys.stdout.write(f"{row['model']} {core} {mode}: {row['millions']:.1f}\n")
                for name, millions in row["layers"].items() if args.layers else ():
                    sys.stdout.write(f"    {name}: {millions:.3f}\n")


def measure_ap(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """AP of each bundle on val and test, into the list `ap` of the results."""
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.evaluation.measure import measure_session

    rows: list[dict[str, Any]] = found.get("ap", [])
    for source, core, mode in itertools.product(args.sources, args.cores, args.modes):
        record = load_json(source / "model.json", ModelRecord)
        with tempfile.TemporaryDirectory(prefix="edgeyolo-cost-") as work:
            artefact = build_ours(source, core, mode, record, Path(work))
            session = backends.open_artefact(Path(work), artefact, record.model, threads=1)
            row: dict[str, Any] = {"model": record.model.name, "core": core, "mode": mode}
            for split in ("val", "test"):
                score = measure_session(session, record.model, open_dataset(args.data, split), artefact=f"ncnn {mode}")
                row[split] = round(score.ap, 2)
            session.close()
        rows = [old for old in rows if key(old) != key(row)] + [row]
        save_result(OUT, {"rows": found.get("rows", []), "ap": sorted(rows, key=key)})
        sys.stdout.write(f"{row['model']} {core} {mode}: AP {row['val']} on val, {row['test']} on test\n")


def key(row: dict[str, Any]) -> tuple[str, str, int]:
    """What a row is of."""
    return row["model"], row["core"], MODES.index(row["mode"])


def count_network(source: Path, core: str, mode: str) -> dict[str, Any]:
    """One row: millions of instructions, whole and by layer; of a peer only whole."""
    record = load_json(source / "model.json", ModelRecord)
    height, width = record.model.input.image_hw
    row = {"model": record.model.name, "image_hw": [height, width], "core": core, "mode": mode}
    with tempfile.TemporaryDirectory(prefix="edgeyolo-cost-") as work:
        if mode in PEERS:
            job = {"engine": mode.split()[0], "model": str(write_peer(source, mode, Path(work)))}
        else:
            job, row["estimated"] = write_ours(source, core, mode, record, Path(work))
        job["input"] = [3, height, width]
        site = site_of_peers() if mode in PEERS else None
        runs = [run["counts"] for run in count(emulated_python(), core, [job, job], site=site)]
    # Now and then something that is not of the engine adds a few; the smaller of two counts is without it.
    layers = {name: min(run[name] for run in runs) / 1e6 for name in runs[0]}
    return row | {"millions": round(sum(layers.values()), 3), "layers": {n: round(m, 3) for n, m in layers.items()}}


def write_ours(
    source: Path, core: str, mode: str, record: ModelRecord, work: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """A job of what `deploy` writes for the board of that core, and what it estimated."""
    artefact = build_ours(source, core, mode, record, work)
    paths = {role: str(work / name) for role, name in artefact.files.items()}
    estimated = dict(artefact.choice.instructions) if artefact.choice is not None else {}
    return {"engine": "ncnn", **paths, "options": artefact.options}, estimated


def build_ours(source: Path, core: str, mode: str, record: ModelRecord, work: Path) -> Artefact:
    """What `deploy` builds for the board of that core."""
    board = msgspec.structs.replace(load_target(TARGETS[core]), precisions=PRECISIONS)
    qparams = load_qparams(source / "qparams.json")
    precision = next(one for one in PRECISIONS if one == mode)
    return backends.build(source / "model.onnx", record.model, qparams, board, work, precision=precision)


def write_peer(source: Path, mode: str, work: Path) -> Path:
    """The graph that a peer reads."""
    import onnx

    model = load_onnx(source / "model.onnx")
    if mode.endswith("int8"):
        model = insert_qdq(model, load_qparams(source / "qparams.json"))
    onnx.save(model, work / "model.onnx")
    return work / "model.onnx"


def site_of_peers() -> Path:
    """A folder with the wheels of peers.txt, filled once for each version of that file."""
    listed = ROOT / "tests/arm/peers.txt"
    digest = hashlib.sha256(listed.read_bytes()).hexdigest()[:12]
    site = setup_arm.folder_of_this_set_up().with_name(f"arm-peers-{digest}")
    if not (site / "ready").is_file():
        setup_arm.install_wheels(site, listed)
        (site / "ready").touch()
    return site


if __name__ == "__main__":
    main()
