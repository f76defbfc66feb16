"""What TensorRT's real parser and compiler say to the graph of every model, without a GPU; and that the Q/DQ is clean.

Small pictures: which layers there are, and in which types, does not depend on the size.
"""

from __future__ import annotations

import gc
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from thin import list_networks

from edgeyolo.backends import build
from edgeyolo.backends.tensorrt import compile_for
from edgeyolo.backends.tensorrt.options import make_options
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.graph.qdq_check import check_qdq
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Target, needs_scales
from edgeyolo.spec.tensor import ROW_NAMES

QUICK = ("yolov7-nano", "yolov7-tiny", "ppyoloe-s")
FORMS = tuple(itertools.product(("host", "graph"), ("fp16", "int8")))
THIN_FORMS = (("host", "fp16"), ("graph", "int8"))  # what is after the maps does not depend on their precision
SIZE = 64  # the coarsest stride is 64
FLOAT_REASONS = {"head output", "attention: reads a pooled tensor"}
LACKING_REASON = "neither its input nor its weight is quantized"
# What a tensor with int8 readers may be read by in float besides: a residual sum, a gate and its global pool, which are
# float in fake-quant too, and a mean over 2x2 on the way past it; a grouped convolution, and an output of the shared
# families, stands beside int8 readers of the same map.
FLOAT_READERS = {"Add", "Mul", "GlobalAveragePool", "AveragePool"}
SHARED = ("yolov5", "damo", "ppyolov2")


def make_target(**changes: Any) -> Target:
    values = {"title": "test board", "engine": "tensorrt", "precisions": ("int8", "fp16", "fp32")}
    return Target(**{**values, "engine_options": {"package": "tensorrt_rtx"}, **changes})


def deploy(source: Path, out: Path, precision: str, **changes: Any) -> Artefact:
    qparams = load_qparams(source / "qparams.json") if needs_scales(precision) else None
    spec = load_json(source / "model.json", ModelRecord).model
    return build(source / "model.onnx", spec, qparams, make_target(**changes), out, precision=precision)


def compile_or_skip(folder: Path, artefact: Artefact, capability: str) -> bytes:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    options = make_options(artefact.options)
    return compile_for(folder / "model.onnx", options, artefact.precision, capability=capability)


@pytest.mark.parametrize("name", [case for case in list_networks() if "-dcn" not in str(case)])  # see nn/test_deform.py
def test_every_model_compiles(fresh_model: Any, name: str, tmp_path: Path) -> None:
    size = SIZE * 2 if name.startswith("yolov6") else SIZE  # the compiler dies of a transposed convolution of one cell
    source = fresh_model(name, size, tmp_path / "source", settled=False).folder
    gc.collect()
    plan_bytes = {}
    for postprocess, precision in THIN_FORMS if name.endswith(", thin") else FORMS:
        out = tmp_path / f"{postprocess}-{precision}"
        artefact = deploy(source, out, precision, postprocess=postprocess)
        for capability in ("8.6", "8.9") if name in QUICK else ("8.6",):
            plan_bytes[postprocess, precision] = len(compile_or_skip(out, artefact, capability))
        outputs = {output.name for output in load_onnx(out / "model.onnx").graph.output}
        has_tail = postprocess == "graph" and not name.startswith("hrnet")  # joints are decoded on the board
        assert (outputs == set(ROW_NAMES)) == has_tail
        if precision == "int8":
            assert_clean(source, out, artefact)
        shutil.rmtree(out)
    is_whole = len(plan_bytes) == len(FORMS)
    if is_whole and name.startswith(("yolov7", "ppyoloe")):  # of others the maps' own copies can outweigh the tail
        for precision in ("fp16", "int8"):
            assert plan_bytes["graph", precision] > plan_bytes["host", precision]
    if (source / "model.onnx").stat().st_size > 100 << 20:  # weights, not kernels, make the size
        assert plan_bytes["host", "int8"] < 0.7 * plan_bytes["host", "fp16"]
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", QUICK)
def test_the_form_for_old_tensorrt_is_clean(fresh_model: Any, name: str, tmp_path: Path) -> None:
    source = fresh_model(name, SIZE, tmp_path / "source", settled=False).folder
    artefact = deploy(source, tmp_path / "out", "int8", engine_options={"strongly_typed": False})
    assert_clean(source, tmp_path / "out", artefact)


def assert_clean(source: Path, folder: Path, artefact: Artefact) -> None:
    """Exactly the layers that the scales say are int8, no problem, and no crossing that could be avoided."""
    report = check_qdq(load_onnx(folder / "model.onnx"))
    layers = load_qparams(source / "qparams.json").layers.values()
    int8 = sum(layer.precision == "int8" for layer in layers)
    assert not report.problems
    assert len(report.int8) == int8
    assert len(report.floats) == len(layers) - int8
    kept = ("is not quantized", "depthwise convolution")  # transposed convolutions, and what is faster in float
    is_lacking = any(words in layer.why for layer in layers for words in kept)
    assert set(report.floats.values()) <= FLOAT_REASONS | ({LACKING_REASON} if is_lacking else set())
    readers = {reader for text in report.crossings for reader in text.split(" in float by ")[1].split(", ")}
    is_shared = is_lacking or load_json(source / "model.json", ModelRecord).model.name.startswith(SHARED)
    assert readers <= FLOAT_READERS | ({"Conv", "ConvTranspose"} if is_shared else set())
    assert artefact.layers == {"int8": int8, "float": len(layers) - int8}


@pytest.mark.parametrize("postprocess", ["host", "graph"])
@pytest.mark.parametrize("name", ["yolov7-nano", "ppyoloe-s"])
def test_float32_compiles(quantized_model: Any, name: str, postprocess: str, tmp_path: Path) -> None:
    artefact = deploy(quantized_model(name, 128).folder, tmp_path, "fp32", postprocess=postprocess)
    assert set(artefact.files.values()) == {path.name for path in tmp_path.iterdir()}
    assert artefact.layers.keys() == {"float"}
    assert compile_or_skip(tmp_path, artefact, "8.6")


@pytest.mark.parametrize("name", ["yolov7-nano", "ppyoloe-s"])
def test_one_class_compiles(fresh_model: Any, name: str, tmp_path: Path) -> None:
    """The best of one class, and axes of length 1."""
    source = fresh_model(name, SIZE, tmp_path / "source", settled=False, classes=1).folder
    artefact = deploy(source, tmp_path / "out", "int8", postprocess="graph")
    assert compile_or_skip(tmp_path / "out", artefact, "8.6")


def test_fp8_compiles_where_gpus_have_it(quantized_model: Any, tmp_path: Path) -> None:
    """Ada and Blackwell; of an older one it is said what it lacks, and a target that does not list it is refused."""
    source = quantized_model("yolov7-nano", 128).folder
    artefact = deploy(source, tmp_path / "fp8", "fp8", postprocess="graph", precisions=("int8", "fp8"))
    int8 = deploy(source, tmp_path / "int8", "int8", postprocess="graph")
    assert artefact.layers == {"fp8": int8.layers["int8"], "float": int8.layers["float"]}
    sizes = [len(compile_or_skip(tmp_path / one.precision, one, "8.9")) for one in (artefact, int8)]
    assert 0.8 < sizes[0] / sizes[1] < 1.25
    assert compile_or_skip(tmp_path / "fp8", artefact, "12.0")
    with pytest.raises(BackendError, match=r"compute capability 8\.6 has no FP8"):
        compile_or_skip(tmp_path / "fp8", artefact, "8.6")
    with pytest.raises(UsageError, match="fp8 is not one of this target's"):
        deploy(source, tmp_path / "none", "fp8")
    with pytest.raises(UsageError, match="FP8 needs strong typing"):
        deploy(source, tmp_path / "none", "fp8", precisions=("fp8",), engine_options={"strongly_typed": False})


def test_too_little_workspace_says_what_to_raise(quantized_model: Any, tmp_path: Path) -> None:
    options = {"package": "tensorrt_rtx", "workspace_mib": 1}
    source = quantized_model("yolov7-nano", 128).folder
    artefact = deploy(source, tmp_path, "fp16", postprocess="graph", engine_options={**options, "candidates": 1000})
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    with pytest.raises(BackendError, match=r"cannot build the model.*workspace.*raise workspace_mib"):
        compile_for(tmp_path / "model.onnx", make_options(artefact.options), "fp16", capability="8.6")
