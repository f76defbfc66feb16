"""A tuned manifest: undone to the letter, used on its own device only, and free of scores that are not its own."""

from __future__ import annotations

import logging

import msgspec
import pytest

from edgeyolo.bundle.tuned import as_deployed, for_this_device, split_scores
from edgeyolo.spec.machine import processor_name
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import AnchorDecode, InputSpec, Latency, ModelSpec, Score
from edgeyolo.spec.tuning import Tuning

LATENCY = Latency(device="x", threads=2, runs=50, total_ms_median=12.0, total_ms_p90=13.0, network_ms_median=9.0)


def score(artefact: str, ap: float) -> Score:
    figures = {"ap": ap, "ap50": ap, "ap75": ap, "ap_small": ap, "ap_medium": ap, "ap_large": ap, "per_class": {}}
    return Score(artefact=artefact, data="cells", split="val", images=9, boxes=90, **figures)


DEPLOYED = Manifest(
    model=ModelSpec(
        name="m",
        activation="relu",
        class_names=("a",),
        input=InputSpec(image_hw=(32, 32)),
        decode=AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),)),
    ),
    target="raspberry-pi-5",
    machine="aarch64",
    artefact=Artefact(engine="ncnn", engine_version="1", precision="int8", files={}, options={"use_bf16": False}),
    threads=4,
    sha256={},
    scores=(score("float torch", 55.0), score("ncnn int8", 54.0)),
    latency=(LATENCY,),
)


def tuned_on(device: str) -> Manifest:
    tuning = Tuning(
        device=device,
        engine_version="1",
        created="2026-01-01T00:00:00+00:00",
        rows=(),
        default_options=DEPLOYED.artefact.options,
        default_threads=4,
        default_scores=DEPLOYED.scores[1:],
        default_latency=DEPLOYED.latency,
        default_ms=10.0,
        tuned_ms=8.0,
        ratio=0.8,
        ratio_low=0.7,
        ratio_high=0.9,
    )
    artefact = msgspec.structs.replace(DEPLOYED.artefact, options={"use_bf16": True}, float_layers=("conv_1",))
    return msgspec.structs.replace(
        DEPLOYED, artefact=artefact, threads=2, tuning=tuning, scores=DEPLOYED.scores[:1], latency=()
    )


def test_tuning_is_undone_to_the_letter() -> None:
    assert as_deployed(tuned_on("x")) == DEPLOYED == as_deployed(DEPLOYED)
    later = msgspec.structs.replace(tuned_on("x"), scores=(DEPLOYED.scores[0], score("ncnn int8", 53.0)))
    assert as_deployed(later) == DEPLOYED, "what was measured of the tuned one is not the deployed one's"


def test_a_tuning_that_found_nothing_keeps_what_was_measured() -> None:
    tuning = tuned_on("x").tuning
    assert tuning is not None
    nothing = msgspec.structs.replace(tuning, default_scores=(), default_latency=())
    manifest = msgspec.structs.replace(DEPLOYED, tuning=nothing)
    assert as_deployed(manifest) == DEPLOYED
    assert for_this_device(manifest) == manifest


def test_only_its_own_device_runs_as_tuned(caplog: pytest.LogCaptureFixture) -> None:
    here, elsewhere = tuned_on(processor_name()), tuned_on("another processor")
    with caplog.at_level(logging.WARNING):
        assert for_this_device(here) is here and for_this_device(DEPLOYED) is DEPLOYED
        assert not caplog.records
        assert for_this_device(elsewhere) == DEPLOYED
    assert "tuned on another processor" in caplog.text and processor_name() in caplog.text


def test_scores_of_the_artefact_are_told_from_those_of_its_sources() -> None:
    simulated = score("ncnn int8 (simulated)", 50.0)
    manifest = msgspec.structs.replace(DEPLOYED, scores=(*DEPLOYED.scores, simulated, score("ncnn fp16", 55.0)))
    sources, own = split_scores(manifest)
    assert [s.artefact for s in own] == ["ncnn int8", "ncnn int8 (simulated)"]
    assert [s.artefact for s in sources] == ["float torch", "ncnn fp16"]
