"""Alter an ONNX detector in thousands of ways, and see that `edgeyolo import` reads it or refuses it in our words.

    python benchmarks/fuzz_onnx.py --seconds 600

What is changed: bytes, lengths of the file, weights that are missing or say to be huge or to lie elsewhere, operators
and their attributes, where tensors come from, and nodes that would hold more than there is memory for. A crash, or an
error that is none of ours, ends the run; the file is then `last.onnx` in the folder that is printed.
"""

from __future__ import annotations

import argparse
import collections
import logging
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.importing import ImportOptions
from edgeyolo.verbs._import_onnx import read_graph

SIDE, CLASSES, CHS = 64, 2, 8
HUGE = (0, -1, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1)
OPERATORS = ("Conv", "Relu", "Concat", "Reshape", "Transpose", "Mul", "MatMul", "Gemm", "Resize", "Split", "Loop",
             "MaxPool", "NonZero", "Einsum", "Gather", "Nonsense")  # fmt: skip


def make_detector() -> ModelProto:
    """Two levels of raw maps, side by side as rows (1, N, 4 + 1 + K)."""
    rng = np.random.default_rng(0)
    constants = {
        "stem.w": rng.normal(0, 0.2, (CHS, 3, 8, 8)),
        "down.w": rng.normal(0, 0.2, (CHS, CHS, 3, 3)),
        "fine.w": rng.normal(0, 0.2, (5 + CLASSES, CHS, 1, 1)),
        "deep.w": rng.normal(0, 0.2, (5 + CLASSES, CHS, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["images", "stem.w"], ["a"], "stem", strides=[8, 8], kernel_shape=[8, 8]),
        helper.make_node("Relu", ["a"], ["b"], "act"),
        helper.make_node("Conv", ["b", "down.w"], ["c"], "down", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], "act2"),
        helper.make_node("Conv", ["b", "fine.w"], ["e"], "fine"),
        helper.make_node("Conv", ["d", "deep.w"], ["f"], "deep"),
        helper.make_node("Reshape", ["e", "shape"], ["g"], "flat"),
        helper.make_node("Reshape", ["f", "shape"], ["h"], "flat2"),
        helper.make_node("Concat", ["g", "h"], ["i"], "join", axis=2),
        helper.make_node("Transpose", ["i"], ["rows"], "turn", perm=[0, 2, 1]),
    ]
    given = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    given.append(numpy_helper.from_array(np.array([1, 5 + CLASSES, -1]), "shape"))
    picture = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [1, None, None])
    graph = helper.make_graph(nodes, "detector", [picture], [rows], given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def lose_weight(model: ModelProto, rng: random.Random) -> None:
    """One that nodes read is not there."""
    del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def inflate_weight(model: ModelProto, rng: random.Random) -> None:
    """One that says to be of another size."""
    tensor = rng.choice(model.graph.initializer)
    tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(HUGE)


def point_outside(model: ModelProto, rng: random.Random) -> None:
    """One that says to lie in another file."""
    tensor = rng.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", rng.choice(["../../../../etc/passwd", "/etc/passwd", "detector.onnx"])


def exchange_operator(model: ModelProto, rng: random.Random) -> None:
    """A node becomes another one."""
    rng.choice(model.graph.node).op_type = rng.choice(OPERATORS)


def rewire(model: ModelProto, rng: random.Random) -> None:
    """A node reads, or gives, another tensor: cycles, and tensors with two sources or none."""
    node = rng.choice(model.graph.node)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    ends = node.input if rng.random() < 0.7 else node.output
    ends[rng.randrange(len(ends))] = rng.choice([*names, "", "nowhere"])


def spoil_attribute(model: ModelProto, rng: random.Random) -> None:
    """Strides, pads, axes and kernels that are none."""
    found = [one for node in model.graph.node for one in node.attribute]
    attribute = rng.choice(found)
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(HUGE)
    else:
        attribute.i = rng.choice(HUGE)


def resize_input(model: ModelProto, rng: random.Random) -> None:
    """A picture of another size."""
    axes = model.graph.input[0].type.tensor_type.shape.dim
    axes[rng.randrange(4)].dim_value = rng.choice((*HUGE, 8192, 33))


def fill_memory(model: ModelProto, rng: random.Random) -> None:
    """A tensor of more values than there is memory, some of them of a size that only running tells."""
    sides = [1, 1, 1 << rng.choice((16, 20, 30)), 1 << rng.choice((16, 20, 30))]
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(sides), "huge"))
    if rng.random() < 0.5:  # as many as there are numbers above zero, times what is huge
        graph.node.insert(0, helper.make_node("NonZero", ["stem.w"], ["where"]))
        graph.node.insert(1, helper.make_node("Shape", ["where"], ["count"]))
        graph.node.insert(2, helper.make_node("ReduceProd", ["count"], ["product"], keepdims=0))
        graph.node.insert(3, helper.make_node("Mul", ["huge", "product"], ["size"]))
    else:
        graph.node.insert(0, helper.make_node("Identity", ["huge"], ["size"]))
    place = next((i for i, node in enumerate(graph.node) if "b" in node.output), 4) + 1
    graph.node.insert(place, helper.make_node("ConstantOfShape", ["size"], ["much"]))
    graph.node.insert(place + 1, helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0))
    graph.node.insert(place + 2, helper.make_node("Add", ["b", "most"], ["b2"]))
    for node in list(graph.node)[place + 3 :]:
        node.input[:] = ["b2" if name == "b" else name for name in node.input]


CHANGES: tuple[Callable[[ModelProto, random.Random], None], ...] = (
    lose_weight, inflate_weight, point_outside, exchange_operator, rewire, spoil_attribute, resize_input, fill_memory,
)  # fmt: skip


def write_case(rng: random.Random, folder: Path) -> Path:
    """One altered file."""
    model = make_detector()
    kind = rng.random()
    if kind < 0.7:
        for _ in range(rng.choice((1, 1, 2))):
            rng.choice(CHANGES)(model, rng)
    raw = bytearray(model.SerializeToString())
    if kind >= 0.85:
        raw = raw[: rng.randrange(len(raw))]
    elif kind >= 0.7:
        for _ in range(rng.choice((1, 4, 16))):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    (folder / "names.txt").write_text("\n".join(map(str, range(CLASSES))))
    path = folder / "last.onnx"
    path.write_bytes(raw)
    return path


def read(path: Path) -> str:
    """What becomes of a file: "reads", or the name of our error. Anything else is raised."""
    try:
        read_graph(path, ImportOptions(names=path.with_name("names.txt")))
    except EdgeYoloError as error:
        return type(error).__name__
    return "reads"


def main() -> None:
    """Until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    counts: collections.Counter[str] = collections.Counter()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-onnx-"))
    sys.stderr.write(f"{folder}\n")
    end, case = time.monotonic() + args.seconds, args.seed
    while time.monotonic() < end:
        counts[read(write_case(random.Random(case), folder))] += 1
        case += 1
    sys.stderr.write(f"{dict(counts)}, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB at most\n")


if __name__ == "__main__":
    main()
