"""A `report.json` of a few figures."""

from __future__ import annotations

import msgspec

from edgeyolo.report.quantization import Provenance, QuantizationReport, artefact_rows
from edgeyolo.spec.model import AnchorDecode, InputSpec, Latency, ModelSpec, Score
from edgeyolo.spec.recipe import Recipe


def make_score(artefact: str, ap: float, split: str = "val") -> Score:
    return Score(
        artefact=artefact,
        data="cells",
        split=split,
        images=72,
        boxes=900,
        ap=ap,
        ap50=80.0,
        ap75=60.0,
        ap_small=-1.0,
        ap_medium=50.0,
        ap_large=70.0,
        per_class={"RBC": ap, "WBC": ap + 1},
    )


SCORES = (
    make_score("float torch", 55.5),
    make_score("fake-quant torch", 55.4),
    make_score("onnxruntime int8", 55.6),
    make_score("ncnn int8", 54.9),
    make_score("ncnn int8", 54.0, split="test"),
)
LATENCY = Latency(device="x86", threads=2, runs=50, total_ms_median=12.34, total_ms_p90=13.0, network_ms_median=9.87)


def small_report(**changes: object) -> QuantizationReport:
    report = QuantizationReport(
        title="cells, int8",
        model=ModelSpec(
            name="yolov7-tiny",
            activation="leaky_relu",
            class_names=("RBC", "WBC"),
            input=InputSpec(image_hw=(320, 256)),
            decode=AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),)),
        ),
        layers={"int8": 55, "float": 3},
        float_reasons={"head output": 3},
        groups=24,
        rows=artefact_rows(SCORES, size_bytes={"ncnn int8": 6_102_242}, latencies={"ncnn int8": LATENCY}),
        provenance=Provenance(
            recipe_name="int8-mse",
            recipe=Recipe(title="MSE"),
            method="ptq",
            data="cells",
            picture_count=256,
            checkpoint_sha256="ab" * 32,
            onnx_sha256="cd" * 32,
            created="2026-01-01T00:00:00+00:00",
            tools={"torch": "2.4"},
        ),
    )
    return msgspec.structs.replace(report, **changes)
