"""In which precision layers run, as each engine says it of itself: those that the scales say, and no others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeyolo import backends
from edgeyolo.backends import load_engine
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.layers import LayerReport, LayerRun, converts, make_layer_report
from edgeyolo.spec.machine import saturates_bytes
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.target import load_target

NAMES = [name for name in backends.list_engines() if load_engine(name).lists_layers]
# How each engine calls a convolution that it multiplies, of whatever type.
CONVOLUTIONS = ("Convolution", "Conv", "FusedConv", "QLinearConv", "correlation")
RUNS = 2


def report_of(name: str, source: Any, out: Path, precision: Any, **options: Any) -> LayerReport:
    engine = load_engine(name)
    target = load_target(engine.host_target() or "rtx")
    if backends.probe(target) or (name == "tensorrt" and not pytest.importorskip("tensorrt_rtx", reason="not here")):
        pytest.skip(f"{name} is not installed")
    target = type(target)(
        **{
            **{field: getattr(target, field) for field in target.__struct_fields__},
            "engine_options": {**target.engine_options, **options},
        }
    )
    qparams = load_qparams(source.folder / "qparams.json") if precision == "int8" else None
    artefact = backends.build(source.folder / "model.onnx", source.spec, qparams, target, out, precision=precision)
    images = np.random.default_rng(0).random((1, *source.spec.input.shape), dtype=np.float32)
    return engine.list_layers(out, artefact, source.spec, images, runs=RUNS, threads=1)


def convolutions(report: LayerReport) -> Counter[str]:
    """How many run in each precision."""
    return Counter(row.precision for row in report.rows if row.kind.split(" ")[0] in CONVOLUTIONS)


def check_sums(report: LayerReport) -> None:
    assert sum(report.counts.values()) == len(report.rows) > 0
    if report.runs:
        assert report.runs == RUNS and all(row.ms is not None and row.ms >= 0 for row in report.rows)
        assert sum(report.time_shares.values()) == pytest.approx(1)
    else:
        assert all(row.ms is None for row in report.rows) and not report.time_shares


@pytest.mark.parametrize("name", NAMES)
def test_int8_layers_are_int8(quantized_model: Any, name: str, tmp_path: Path) -> None:
    """ONNX Runtime, which needs outputs rounded for it, has none to round before the float layers at the end."""
    if name in ("onnxruntime", "openvino") and saturates_bytes():
        pytest.skip("this processor multiplies bytes wrongly, and they run in float")
    source = quantized_model("yolov7-nano", 128)
    layers = load_qparams(source.folder / "qparams.json").layers.values()
    int8 = sum(layer.precision == "int8" for layer in layers)
    rounds = name == "onnxruntime"
    report = report_of(name, source, tmp_path, "int8", **({"round_outputs": True} if rounds else {}))
    check_sums(report)
    int8 -= len(source.spec.decode.strides) if rounds else 0
    wanted = {"int8": int8, ("fp16" if name == "tensorrt" else "fp32"): len(layers) - int8}
    assert convolutions(report) == wanted
    kept = [row for row in report.rows if row.kind.split(" ")[0] in CONVOLUTIONS and row.precision == "int8"]
    assert {row.takes for row in kept} <= ({"int8", "fp32"} if name == "ncnn" else {"int8"})
    assert any(row.is_conversion or converts(row) for row in report.rows), "the picture itself is in float"


@pytest.mark.parametrize("name", NAMES)
def test_float_layers_are_float(quantized_model: Any, name: str, tmp_path: Path) -> None:
    report = report_of(name, quantized_model("yolov7-nano", 128), tmp_path, "fp32")
    check_sums(report)
    assert "int8" not in report.counts and set(convolutions(report)) == {"fp32"}


def test_onnx_runtime_says_that_it_computes_the_plain_graph_in_float(quantized_model: Any, tmp_path: Path) -> None:
    report = report_of("onnxruntime", quantized_model("yolov7-nano", 128), tmp_path, "int8")
    assert set(convolutions(report)) == {"fp32"} and report.counts["conversion"] > 50


def test_an_engine_that_does_not_say(tmp_path: Path) -> None:
    engine = load_engine("rknn")
    with pytest.raises(UsageError, match="does not say"):
        engine.list_layers(tmp_path, None, None, None, runs=1)


def test_a_report_adds_up_and_names_conversions() -> None:
    rows = [
        LayerRun(name="a", kind="Conv", precision="int8", takes="fp32", gives="int8", ms=3.0),
        LayerRun(name="b", kind="Conv", precision="int8", takes="fp32", gives="fp32", ms=1.0),
        LayerRun(name="c", kind="Cast", precision="fp16", takes="fp16", gives="fp32", is_conversion=True, ms=0.5),
        LayerRun(name="d", kind="Conv", precision="fp32", takes="fp32", gives="fp32", ms=0.5),
        LayerRun(name="e", kind="Plugin"),
    ]
    report = make_layer_report(rows, method="by hand", runs=1)
    assert report.counts == {"int8": 2, "conversion": 1, "fp32": 1, "not known": 1}
    assert report.time_shares == {"int8": 0.8, "conversion": 0.1, "fp32": 0.1, "not known": 0.0}
    assert [converts(row) for row in rows] == ["fp32 to int8", "fp32 to int8 and back", "fp16 to fp32", "", ""]
