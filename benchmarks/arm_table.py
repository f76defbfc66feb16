"""The cost tables of `edgeyolo/backends/ncnn/costs/`: layers of many sizes counted on emulated cores, and rates fitted.

    python benchmarks/arm_table.py [--cores cortex-a76] [--kinds "3x3 depthwise"] [--layers 24]
    python benchmarks/arm_table.py --cores                              # fit again what was counted

Each layer stands in a small network of its own, in float and in int8, with winograd and without, giving float and
giving int8. A fifth of the sizes is kept out of the fit, and the error on them is written with the rates. Counts are
kept in results/arm_table.json. Needs an emulated board (tests/arm/setup_arm.py) and a C compiler.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from record import RESULTS, ROOT, save_result
from scipy.optimize import nnls

from edgeyolo.backends.ncnn import costs
from edgeyolo.backends.ncnn.files import Blob, Layer, format_param, write_bin

sys.path.insert(0, str(ROOT / "tests/arm"))
from counting import count, emulated_python

COUNTS = RESULTS / "arm_table.json"
HALF_CORES = ("cortex-a76", "max")
CORES = ("cortex-a53", "cortex-a72", *HALF_CORES)
CHANNELS = (16, 32, 48, 64, 96, 128, 160, 192, 256, 320)
SIZES = (5, 8, 10, 13, 16, 20, 26, 32, 40)
TILES = (1, 2, 4, 6)
FIRST_SIZES = (32, 48, 64, 80, 96, 112, 128, 160)  # of the layer that reads the picture
DEPTHWISE = {costs.depthwise_kind(*one): one for one in ((3, 1), (3, 2), (5, 1), (5, 2))}
KINDS = {"1x1": (1, 1), "3x3": (3, 1), "3x3/2": (3, 2), "3x3/2 of 3": (3, 2), **DEPTHWISE}
MOST = {"1x1": 8e6, "3x3": 12e6, "3x3/2": 6e6, "3x3/2 of 3": 12e6} | dict.fromkeys(DEPTHWISE, 4e6)  # products
LEAST = dict.fromkeys(KINDS, 1e5) | dict.fromkeys(DEPTHWISE, 2e4)
WITHOUT_WINOGRAD = {31: 1 << 6}  # a layer's mask of engine options
HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
FLOATS = {"fp32": (), "fp16": HALF, "bf16": ("use_bf16_storage",)}
Size = tuple[int, int, int]  # channels in, channels out, side of the output


def main() -> None:
    """Count, fit and write the table of each core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="*", choices=CORES, default=CORES, help="to count; none: only fit again")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="to count; others stay")
    parser.add_argument("--layers", type=int, default=24, help="sizes of each kind")
    args = parser.parse_args()
    cores = json.loads(COUNTS.read_text())["cores"] if COUNTS.is_file() else {}
    for core in args.cores:
        others = [case for case in cores.get(core, []) if case["kind"] not in args.kinds]
        cores[core] = others + count_core(core, args.kinds, args.layers)
        save_result(COUNTS, {"layers": args.layers, "cores": cores})
    for core, counted in cores.items():
        path = Path(costs.__file__).with_name("costs") / f"{core}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(format_table(core, counted))


def count_core(core: str, kinds: Sequence[str], number: int) -> list[dict[str, Any]]:
    """Kind, size and float precision of each network, and the instructions of each of its layers."""
    with tempfile.TemporaryDirectory(prefix="edgeyolo-table-") as work:
        cases, jobs = zip(*list_jobs(core, kinds, number, Path(work)), strict=True)
        return [case | one for case, one in zip(cases, count(emulated_python(), core, jobs), strict=True)]


def draw_sizes(kind: str, number: int) -> list[Size]:
    """Sizes of layers that a detector may have and that an emulated core computes in a second; the same every time."""
    kernel, _ = KINDS[kind]
    every: list[Size]
    if kind in DEPTHWISE:
        every = [(channels, channels, side) for channels, side in itertools.product(CHANNELS, SIZES)]
    elif kind.endswith("of 3"):
        every = list(itertools.product((3,), CHANNELS[:4], FIRST_SIZES))
    else:
        every = list(itertools.product(CHANNELS, CHANNELS, SIZES))
    of_each = {s: s[2] ** 2 * kernel**2 * s[1] * (1 if kind in DEPTHWISE else s[0]) for s in every}
    fitting = [s for s, products in of_each.items() if LEAST[kind] < products < MOST[kind]]
    order = np.random.default_rng(len(kind)).permutation(len(fitting))
    return [fitting[i] for i in order[:number]]


def list_jobs(
    core: str, kinds: Sequence[str], number: int, work: Path
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(case, job): the whole of a network in the core's own precision, only the float layers in the others."""
    own = "fp16" if core in HALF_CORES else "fp32"
    for kind in kinds:
        for index, size in enumerate(draw_sizes(kind, number)):
            for precision in FLOATS if core in HALF_CORES else ("fp32", "bf16"):
                if precision == own or index % 2 == 0:
                    stem = work / f"{list(KINDS).index(kind)}-{index}-{precision}"
                    case = {"kind": kind, "size": size, "precision": precision}
                    yield case, write_job(stem, kind, size, precision, with_int8=precision == own)


def write_job(stem: Path, kind: str, size: Size, precision: str, *, with_int8: bool) -> dict[str, Any]:
    """The files of a network, and the job that counts it."""
    layers = make_network(kind, size, with_int8=with_int8)
    param, weights = stem.with_suffix(".param"), stem.with_suffix(".bin")
    param.write_text(format_param(layers))
    weights.write_bytes(write_bin(layers))
    options = {name: name in FLOATS[precision] for names in FLOATS.values() for name in names}
    side = size[2] * KINDS[kind][1]
    files = {"param": str(param), "bin": str(weights)}
    return {"engine": "ncnn", **files, "options": options, "input": [size[0], side, side]}


def make_network(kind: str, size: Size, *, with_int8: bool) -> list[Layer]:
    """in0 -> a pass that lays it out as the engine likes -> the convolution in every way there is."""
    ways = {"float": ("f", {}, 0), "float-direct": ("f", WITHOUT_WINOGRAD, 0)}
    if with_int8:
        ways |= {"int8": ("i", {}, 0), "int8-direct": ("i", WITHOUT_WINOGRAD, 0)}
        ways |= {"chained": ("i", {}, 1), "chained-direct": ("i", WITHOUT_WINOGRAD, 1)}
    if kind != "3x3":
        ways = {name: way for name, way in ways.items() if not name.endswith("-direct")}
    floats = [name for name, way in ways.items() if way[0] == "f"]
    integers = [name for name in ways if name not in floats]
    copies = [f"x_{name}" for name in floats] + ["x_quantize"] * with_int8
    layers = [
        Layer("Input", "in0", (), ("in0",), {}),
        Layer("ReLU", "pass", ("in0",), ("x",), {}),
        Layer("Split", "split", ("x",), tuple(copies), {}),
    ]
    if with_int8:
        scale = (Blob(np.float32([100])),)
        layers.append(Layer("Quantize", "quantize", ("x_quantize",), ("q",), {0: 1}, scale))
        layers.append(Layer("Split", "split_int8", ("q",), tuple(f"x_{name}" for name in integers), {}))
    for name, (number, mask, chained) in ways.items():
        layers.append(make_convolution(kind, size, name, number == "i", chained, mask))
        if chained:
            last = make_convolution("1x1", (size[1], 8, 0), f"after_{name}", True, 0, {})
            layers.append(Layer(last.kind, last.name, (f"y_{name}",), (f"z_{name}",), last.params, last.weights))
    if with_int8:
        layers.append(Layer("Split", "split_result", ("y_int8",), ("y_read", "y_quantize"), {}))
        layers.append(Layer("ReLU", "read", ("y_read",), ("r",), {}))
        layers.append(Layer("Quantize", "quantize_result", ("y_quantize",), ("s",), {0: 1}, scale))
        layers.append(Layer("ReLU", "read_float", ("y_float",), ("t",), {}))
    return layers


def make_convolution(kind: str, size: Size, name: str, int8: bool, chained: int, more: dict[int, int]) -> Layer:
    """A convolution with LeakyReLU and noise for weights."""
    kernel, stride = KINDS[kind]
    in_chs, out_chs, _ = size
    is_depthwise = kind in DEPTHWISE
    weights = np.random.default_rng(0).integers(-20, 20, (1 if is_depthwise else in_chs) * out_chs * kernel**2)
    params: dict[int, Any] = {0: out_chs, 1: kernel, 3: stride, 4: kernel // 2, 5: 1, 6: weights.size, 9: 2, 10: (0.1,)}
    blobs = [Blob(weights.astype(np.int8 if int8 else np.float32), tagged=True), Blob(np.zeros(out_chs, np.float32))]
    if is_depthwise:
        params[7] = out_chs
    if int8:
        params[8] = (1 if is_depthwise else 2) + 100 * chained
        blobs += [Blob(np.full(out_chs, 100, np.float32)), Blob(np.float32([100]))] + [Blob(np.float32([1]))] * chained
    layer = "ConvolutionDepthWise" if is_depthwise else "Convolution"
    return Layer(layer, name, (f"x_{name}",), (f"y_{name}",), params | more, tuple(blobs))


def format_table(core: str, counted: list[dict[str, Any]]) -> str:
    """The TOML of a core."""
    import ncnn

    lines = [
        f'source = "instructions of emulated {core} (qemu 7.2), ncnn {ncnn.__version__}: benchmarks/arm_table.py"',
        *(f"{name} = {value:.4g}" for name, value in fit_passes(counted).items()),
    ]
    seen: dict[tuple[str, costs.Way], list[tuple[Size, int]]] = {}
    for case in counted:
        is_depthwise = case["kind"] in DEPTHWISE
        kind = case["kind"] if is_depthwise else costs.size_kind(*KINDS[case["kind"]], *case["size"][:2])
        for name, instructions in case["counts"].items():
            way = name.replace("float", case["precision"])
            if way in get_args(costs.Way):
                seen.setdefault((kind, way), []).append((case["size"], instructions))
    for (kind, way), samples in sorted(seen.items()):
        rates = fit(kind, samples)
        lines += ["", f'[convolutions."{kind}".{way}]', *(f"{name} = {value:.4g}" for name, value in rates.items())]
    return "\n".join(lines) + "\n"


def fit(kind: str, samples: list[tuple[Size, int]]) -> dict[str, float]:
    """Rates by least squares of relative errors, none negative, and the tile that fits best.

    Every fifth sample only tests them.
    """
    counts = np.array([n for _, n in samples], float)
    tests = np.arange(len(samples)) % 5 == 2
    fits = []
    for tile in TILES if kind.startswith("3x3") and kind not in DEPTHWISE else TILES[:1]:
        work = np.array([costs.count_work(kind, tile, s[0], (s[1], s[2], s[2])) for s, _ in samples])
        rates, distance = nnls(work[~tests] / counts[~tests, None], np.ones((~tests).sum()))
        fits.append((distance, tile, rates, np.abs(work[tests] @ rates / counts[tests] - 1)))
    _, tile, rates, errors = min(fits, key=lambda one: one[:2])
    found = dict(zip(("products", "taken", "given", "weights", "fixed"), rates.tolist(), strict=True))
    count = int((~tests).sum())
    return {"tile": tile} | found | {"count": count, "error": np.median(errors), "error_p90": np.quantile(errors, 0.9)}


def fit_passes(counted: list[dict[str, Any]]) -> dict[str, float]:
    """Instructions for each number that is quantized, or read after an int8 convolution; medians of dense layers."""
    per: dict[str, list[float]] = {"quantize": [], "quantize_result": [], "cast": []}
    for case in counted:
        (in_chs, out_chs, side), counts = case["size"], case["counts"]
        if "quantize" in counts and case["kind"] not in DEPTHWISE:
            taken, given = in_chs * (side * KINDS[case["kind"]][1]) ** 2, out_chs * side**2
            per["quantize"].append(counts["quantize"] / taken)
            per["quantize_result"].append(counts["quantize_result"] / given)
            per["cast"].append((counts["read"] - counts["read_float"]) / given)
    return {name: max(0.0, float(np.median(values))) for name, values in per.items()}


if __name__ == "__main__":
    main()
