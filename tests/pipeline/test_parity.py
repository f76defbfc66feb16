"""Fake-quant torch, ONNX Runtime Q/DQ, NCNN and OpenVINO int8, tensor by tensor on raw head maps of 8 real pictures.

The engines round alike but for ties (ncnn away from zero, the others to even) and the order of float sums, so a
value now and then falls on the other side of a rounding step; the next layers spread that. What is held: the
difference is noise far below the one that quantization itself makes.
"""

from __future__ import annotations

import numpy as np
import pytest
from bccd import BCCD, needs_bccd
from whole_way import WholeWay

from edgeyolo.backends import Session, open_artefact
from edgeyolo.bundle import open_bundle
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.parity import MapDifference, compare_maps
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization import quantize
from edgeyolo.quantization.calibrate.pictures import calibration_pictures
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.torch_session import TorchSession

ENGINE_RMS = 0.05  # of the standard deviation of a map

pytestmark = needs_bccd


class Engines:
    """Sessions of the whole way's model on every engine."""

    def __init__(self, whole_way: WholeWay) -> None:
        loaded = load_checkpoint(whole_way.run)
        self.spec: ModelSpec = loaded.record.model
        recipe = load_recipe("int8-mse")
        data = open_dataset(whole_way.data, "train")
        pictures, hashes = calibration_pictures(data, self.spec.input, count=recipe.count, seed=recipe.seed)
        quantized = quantize(loaded.model, pictures, recipe, recipe_name="int8-mse", picture_hashes=hashes)
        self.sessions: dict[str, Session] = {
            "float": TorchSession(fold_model(loaded.model)),
            "fake-quant": TorchSession(quantized.fake_quant),
        }
        for name, target in {"onnxruntime": "host-onnx", "ncnn": "host-ncnn", "openvino": "host-openvino"}.items():
            with open_bundle(whole_way.bundles[target]) as bundle:
                self.sessions[name] = open_artefact(
                    bundle.folder,
                    bundle.manifest.artefact,
                    self.spec,
                )


@pytest.fixture(scope="module")
def engines(whole_way: WholeWay) -> Engines:
    return Engines(whole_way)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    data = open_dataset(BCCD, "test")
    return [data[i].image for i in range(8)]


def worst(rows: list[MapDifference]) -> float:
    return max(row.relative_rms for row in rows)


@pytest.mark.parametrize(
    ("reference", "other"),
    [("fake-quant", "onnxruntime"), ("fake-quant", "ncnn"), ("fake-quant", "openvino"), ("onnxruntime", "ncnn")],
)
def test_engines_agree_on_raw_maps(engines: Engines, pictures: list[np.ndarray], reference: str, other: str) -> None:
    rows = compare_maps(engines.sessions[reference], engines.sessions[other], pictures, engines.spec.input)
    assert len(rows) == 3
    assert worst(rows) < ENGINE_RMS, rows


def test_engines_are_nearer_to_fake_quant_than_fake_quant_is_to_float(
    engines: Engines, pictures: list[np.ndarray]
) -> None:
    fake_quant = engines.sessions["fake-quant"]
    lost = worst(compare_maps(engines.sessions["float"], fake_quant, pictures, engines.spec.input))
    assert lost > 0
    for name in ("onnxruntime", "ncnn", "openvino"):
        assert worst(compare_maps(fake_quant, engines.sessions[name], pictures, engines.spec.input)) < lost, name
