"""AP of bundles on ARM's own kernels, core by core, against fake-quant on the same pictures.

    python benchmarks/arm.py runs/tiny/run runs/pps/run --data ../shared/data/bccd [--pictures 40] [--cpus cortex-a72]
                             [--precision mixed]

Each source is a checkpoint. It is quantized once; the bundle of the target that a core belongs to is made from that,
and evaluated inside an emulated aarch64 Python with the real ncnn wheel (tests/arm/setup_arm.py), one process per core,
two at a time. The host counts mAP. Emulated time says nothing about a board's. Results are written after each source;
what the file has of other models, by the same code on the same pictures, stays. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, load_reusable, save_result

from edgeyolo import verbs
from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.evaluation import evaluate
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.export import export_model
from edgeyolo.quantization import quantize
from edgeyolo.quantization.calibrate.pictures import calibration_pictures
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.model import Score
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.torch_session import TorchSession

ROOT = Path(__file__).parents[1]
TARGET_OF_CPU = {
    "cortex-a53": "raspberry-pi-3",
    "cortex-a72": "raspberry-pi-4",
    "cortex-a76": "raspberry-pi-5",
    "max": "rk3588",
}


def main() -> None:
    """Measure every source and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--recipe", default="int8-mse")
    parser.add_argument("--precision", choices=("int8", "mixed"), default="int8")
    parser.add_argument("--cpus", nargs="+", choices=TARGET_OF_CPU, default=list(TARGET_OF_CPU))
    parser.add_argument("--out", type=Path, default=RESULTS / "arm.json")
    args = parser.parse_args()

    python = emulated_python()
    dataset = open_dataset(args.data, args.split)
    dataset = dataclasses.replace(dataset, records=dataset.records[: args.pictures])
    pictures = {"data": dataset.name, "split": args.split, "pictures": len(dataset), "recipe": args.recipe}
    pictures["precision"] = args.precision
    rows = (load_reusable(args.out, **pictures) or {"rows": []})["rows"]
    for source in args.sources:
        measured = measure_source(source, args.data, dataset, pictures, args.cpus, python)
        rows = [row for row in rows if row["model"] != measured[0]["model"]] + measured
        save_result(args.out, {**pictures, "rows": rows})
    sys.stdout.write(table(rows))


def emulated_python() -> Path:
    """The launcher that `setup_arm.py` makes, set up if it is not there."""
    command = [sys.executable, str(ROOT / "tests/arm/setup_arm.py")]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def measure_source(
    source: Path, data: Path, dataset: Dataset, how: dict[str, Any], cpus: list[str], python: Path
) -> list[dict[str, Any]]:
    """One row per artefact of one checkpoint: fake-quant, ncnn on this machine, ncnn on each core."""
    with tempfile.TemporaryDirectory(prefix="edgeyolo-arm-") as work:
        folder = Path(work)
        score, model = quantize_once(source, data, dataset, how["recipe"], folder / "int8")
        reference = score.ap
        rows = [row(model, "fake-quant torch", "", score, reference)]
        host = folder / "host-ncnn.eyb"
        verbs.deploy(folder / "int8", "host-ncnn", host)
        rows.append(row(model, "this machine", "host-ncnn", host_score(host, dataset), reference))
        with ThreadPoolExecutor(2) as pool:
            scores = pool.map(lambda cpu: measure_cpu(cpu, folder / "int8", dataset, how["precision"], python), cpus)
            rows += [
                row(model, cpu, TARGET_OF_CPU[cpu], score, reference) for cpu, score in zip(cpus, scores, strict=True)
            ]
    return rows


def quantize_once(source: Path, data: Path, dataset: Dataset, recipe: str, out: Path) -> tuple[Score, str]:
    """Export the quantized model into `out`; the score of its fake-quantized form, and the model's name."""
    loaded = load_checkpoint(source)
    spec = loaded.record.model
    settings = load_recipe(recipe)
    pictures, hashes = calibration_pictures(open_dataset(data, "train"), spec.input, settings.count, settings.seed)
    quantized = quantize(loaded.model, pictures, settings, recipe_name=recipe, picture_hashes=hashes)
    export_model(quantized, spec, out)
    return measure_session(TorchSession(quantized.fake_quant), spec, dataset, artefact="fake-quant torch"), spec.name


def host_score(bundle: Path, dataset: Dataset) -> Score:
    """AP of a bundle on this machine."""
    from edgeyolo.backends import open_artefact
    from edgeyolo.bundle import open_bundle

    with open_bundle(bundle) as opened:
        model = opened.manifest.model
        session = open_artefact(
            opened.folder,
            opened.manifest.artefact,
            model,
            threads=1,
        )
        return measure_session(session, model, dataset, artefact="ncnn int8")


def measure_cpu(cpu: str, quantized: Path, dataset: Dataset, precision: str, python: Path) -> Score:
    """AP of the bundle for that core, made of a quantized folder and detected on its emulation."""
    with tempfile.TemporaryDirectory(prefix="edgeyolo-arm-") as work:
        bundle, pictures, out = (Path(work) / f"{cpu}.{suffix}" for suffix in ("eyb", "txt", "json"))
        verbs.deploy(quantized, TARGET_OF_CPU[cpu], bundle, precision=precision)
        pictures.write_text("".join(f"{record.image_path.absolute()}\n" for record in dataset.records))
        command = [python, ROOT / "tests/arm/evaluate_on_arm.py", "pictures", bundle, pictures, out]
        environment = os.environ | {"QEMU_CPU": cpu, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        return evaluate(replay(json.loads(out.read_text())), dataset, artefact=f"ncnn {precision} on {cpu}")


def replay(found: list[dict[str, list[Any]]]) -> Callable[[Image], Detections]:
    """A detector that knows its answers; `evaluate` asks in the order of the data set."""
    answers = iter(found)

    def detect(image: Image) -> Detections:
        answer = next(answers)
        return Detections(
            np.asarray(answer["boxes_xyxy"], np.float32).reshape(-1, 4),
            np.asarray(answer["scores"], np.float32),
            np.asarray(answer["class_ids"], np.int64),
        )

    return detect


def row(model: str, place: str, target: str, score: Score, reference: float) -> dict[str, Any]:
    """A line of the results."""
    drop = round(reference - score.ap, 4)
    return {"model": model, "on": place, "target": target, "ap": score.ap, "ap50": score.ap50, "drop": drop}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| model | on | target | AP | AP50 | below fake-quant |", "|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['on']} | {r['target']} | {r['ap']:.2f} | {r['ap50']:.2f} | {r['drop']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
