"""A row of the scoreboard: the artefact's own score beside the float model's, each number with how it came about."""

from __future__ import annotations

import msgspec
from any_spec import any_spec

from edgeyolo.spec.figure import OWN_WEIGHTS, Figure, ScoreboardRow, scoreboard_rows
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import Latency, Score

SCORE = {"data": "cells", "images": 9, "boxes": 90, "ap50": 80.0, "ap75": 40.0}
SCORE |= {"ap_small": 1.0, "ap_medium": 2.0, "ap_large": 3.0}


def score(artefact: str, split: str, ap: float, **more: str) -> Score:
    return Score(artefact=artefact, split=split, ap=ap, **SCORE, **more)


def test_rows_are_made_of_what_a_bundle_says() -> None:
    scores = (
        score("float torch", "val", 50.0),
        score("fake-quant torch", "val", 49.0),
        score("rknn int8", "val", 48.5),
        score("rknn int8 (simulated)", "test", 47.0, kind="simulated"),
        score("rknn fp16", "val", 49.9),
    )
    device = Latency(device="Rock 5", threads=1, runs=20, total_ms_median=9.5, total_ms_p90=11.0, network_ms_median=8.0)
    artefact = Artefact(engine="rknn", engine_version="", precision="int8", files={})
    manifest = Manifest(
        model=any_spec((16, 16)), target="npu", artefact=artefact, sha256={}, scores=scores, latency=(device,)
    )
    on_val, on_test = scoreboard_rows(manifest, 1234)
    assert on_val.ap_float == Figure(value=50.0, unit="AP", kind="measured")
    assert on_val.ap == Figure(value=48.5, unit="AP", kind="measured")
    assert (on_test.ap_float, on_test.ap.value, on_test.ap.kind) == (None, 47.0, "simulated")
    assert on_val.size == Figure(value=1234, unit="bytes", kind="measured")
    source = "Rock 5, 1 thread"
    assert on_val.costs == (
        Figure(value=9.5, unit="ms", kind="measured", source=source),
        Figure(value=8.0, unit="network ms", kind="measured", source=source),
    )
    assert (on_val.licence, on_val.pictures, on_val.image_hw) == (OWN_WEIGHTS, 9, (16, 16))
    (unscored,) = scoreboard_rows(msgspec.structs.replace(manifest, scores=()), 1234)
    assert (unscored.ap, unscored.data, unscored.costs) == (None, "", on_val.costs)
    counted = Figure(value=162e6, unit="instructions", kind="counted", source="cortex-a76")
    more = msgspec.structs.replace(on_val, costs=(*on_val.costs, counted))
    assert msgspec.json.decode(msgspec.json.encode(more), type=ScoreboardRow) == more
