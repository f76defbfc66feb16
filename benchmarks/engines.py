"""AP of one and the same quantized folder on every engine: fake-quant, and whatever can be opened on this computer.

    python benchmarks/engines.py --data ../shared/data/bccd runs/tiny/int8 runs/ppyoloe/int8 [--only ROW ...]

Each folder is one that `edgeyolo quantize` wrote. A row is an entry of `WAYS`: its name, and what measures the folder
by it; one whose engine is missing is left out, and said so. AP is of the val and test splits together. TensorRT's
graph, in which the float parts are float16, is run by ONNX Runtime; Rockchip's NPU by its vendor's simulator; ARM cores
are emulated (tests/arm/setup_arm.py), and take a quarter of an hour for each row of 160 pictures. Rows
that the same code has measured are not measured again, unless `--only` names them.
"""

from __future__ import annotations

import argparse
import functools
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from arm import emulated_python, measure_cpu
from record import RESULTS, load_reusable, save_result
from reopen import reopen_quantized
from splits import join_splits
from tensorrt_qdq import OnnxFile, write_graphs

from edgeyolo.data.dataset import Dataset
from edgeyolo.evaluation.measure import measure_session
from edgeyolo.graph.qdq import insert_qdq, load_onnx
from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.model import ModelRecord, Score
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.training.torch_session import TorchSession
from edgeyolo.verbs import measure_built

logger = logging.getLogger("engines")

Way = Callable[[Path, Dataset], Score]


def by_torch(folder: Path, dataset: Dataset, *, is_float: bool = False) -> Score:
    """The folded network, float or fake-quantized."""
    quantized, spec = reopen_quantized(folder)
    session = TorchSession(quantized.float_deploy if is_float else quantized.fake_quant)
    return measure_session(session, spec, dataset, artefact="torch")


def by_target(folder: Path, dataset: Dataset, *, target: str) -> Score:
    """What `deploy` writes for a target."""
    return measure_built(folder, target, "int8", dataset)


def by_tensorrt_graph(folder: Path, dataset: Dataset) -> Score:
    """The file that goes into the bundle of a Jetson, with raw maps."""
    spec = load_json(folder / "model.json", ModelRecord).model
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        paths = {name: path for name, path, _ in write_graphs(folder, spec, Path(work))}
        return measure_session(OnnxFile(paths["float16 Q/DQ, raw maps"]), spec, dataset, artefact="tensorrt")


def by_unsigned_graph(folder: Path, dataset: Dataset) -> Score:
    """The Q/DQ graph with unsigned activations, which is OpenVINO's, run by ONNX Runtime."""
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        model = insert_qdq(load_onnx(folder / "model.onnx"), load_qparams(folder / "qparams.json"), unsigned=True)
        path = Path(work) / "unsigned.onnx"
        path.write_bytes(model.SerializeToString())
        spec = load_json(folder / "model.json", ModelRecord).model
        return measure_session(OnnxFile(path), spec, dataset, artefact="unsigned")


def by_emulated_core(folder: Path, dataset: Dataset, *, cpu: str, precision: str) -> Score:
    """The bundle of a board, by the ARM wheel of ncnn on an emulation of the board's core."""
    return measure_cpu(cpu, folder, dataset, precision, emulated_python())


WAYS: dict[str, Way] = {
    "float torch": functools.partial(by_torch, is_float=True),
    "fake-quant torch": by_torch,
    "ONNX Runtime, signed": functools.partial(by_target, target="host-onnx"),
    "ONNX Runtime, unsigned": by_unsigned_graph,
    "ONNX Runtime, outputs rounded too": functools.partial(by_target, target="host-onnx-fast"),
    "OpenVINO": functools.partial(by_target, target="host-openvino"),
    "NCNN on x86": functools.partial(by_target, target="host-ncnn"),
    **{
        f"NCNN on an emulated {cpu.title()}, {precision}": functools.partial(
            by_emulated_core, cpu=cpu, precision=precision
        )
        for cpu in ("cortex-a53", "cortex-a72", "cortex-a76")
        for precision in ("int8", "mixed")
    },
    "TensorRT's graph in ONNX Runtime": by_tensorrt_graph,
    "RKNN for RK3588, simulated": functools.partial(by_target, target="rockchip-rk3588-npu"),
}


def main() -> None:
    """Measure what is not measured yet, write the results after each row; `tables.py` makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=())
    parser.add_argument("--out", type=Path, default=RESULTS / "engines.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    dataset = join_splits(args.data)
    models = (load_reusable(args.out, data=args.data.name) or {"models": {}})["models"]
    for folder in args.folders:
        name = load_json(folder / "model.json", ModelRecord).model.name
        rows = models.get(name, {})
        for way in args.only or [way for way in WAYS if way not in rows]:
            try:
                rows[way] = round(WAYS[way](folder, dataset).ap, 3)
                logger.info("%s: %s %.2f", folder, way, rows[way])
            except EdgeYoloError as error:
                logger.warning("%s is left out: %s", way, error)
            models[name] = {way: rows[way] for way in WAYS if way in rows}
            save_result(args.out, {"data": args.data.name, "split": dataset.split, "models": models})


if __name__ == "__main__":
    main()
