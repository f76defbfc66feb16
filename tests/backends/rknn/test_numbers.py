"""The simulator computes with our scales: the integers of a reference, and ONNX Runtime's maps of a whole network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from one_layer import OneLayer, QuantizedModel

from edgeyolo import backends
from edgeyolo.backends.rknn.graph import make_graph
from edgeyolo.backends.rknn.options import Options
from edgeyolo.backends.rknn.simulator import SimulatorSession
from edgeyolo.bundle import open_bundle
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.target import load_target

IMAGE_HW = (16, 32)
HALF = 2**-11  # rounding of what leaves the NPU, as part of it
WRONG = 0.25  # of a scale: values beyond a quarter of the range are cut off


def simulate(layer: OneLayer, toolkit: Path, folder: Path) -> np.ndarray:
    graph, layers = make_graph(*layer.write(folder))
    assert layers == {"int8": 1, "float": 0}
    (folder / "qdq.onnx").write_bytes(graph.SerializeToString())
    session = SimulatorSession(toolkit, folder / "qdq.onnx", Options("rk3588"), 1, IMAGE_HW)
    (found,) = session.run(layer.images())
    session.close()
    return found


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


@pytest.mark.parametrize(
    "layer",
    [OneLayer(image_hw=IMAGE_HW), OneLayer(image_hw=IMAGE_HW, out_chs=15, groups=3, stride=2, activation="Relu")],
    ids=["plain", "grouped"],
)
def test_one_layer_has_the_integers_of_the_reference(layer: OneLayer, toolkit: Path, tmp_path: Path) -> None:
    """With the scale as the toolkit makes it of ours if it is not told otherwise, the error is ten times this one."""
    wanted = layer.expected(layer.images())
    assert rms(simulate(layer, toolkit, tmp_path) - wanted) < HALF * rms(wanted)


def test_a_wrong_scale_is_found(toolkit: Path, tmp_path: Path) -> None:
    """It is planted in the scales: the simulator follows it, and is as far from the right result as it should be."""
    right = OneLayer(image_hw=IMAGE_HW)
    wrong = dataclasses.replace(right, step=right.step * WRONG)
    of_right, of_wrong = (layer.expected(layer.images()) for layer in (right, wrong))
    found = simulate(wrong, toolkit, tmp_path)
    moved = rms(of_wrong - of_right)
    assert moved > 0.1 * rms(of_right)
    assert rms(found - of_wrong) < HALF * rms(of_wrong)
    assert rms(found - of_right) == pytest.approx(moved, rel=0.01)


def test_a_bundle_gives_onnx_runtimes_maps(npu_bundle: Path, nano: QuantizedModel, tmp_path: Path) -> None:
    images = np.random.default_rng(3).random((2, 3, *nano.spec.input.image_hw), dtype=np.float32)
    qparams, target = load_qparams(nano.folder / "qparams.json"), load_target("host-onnx")
    artefact = backends.build(nano.folder / "model.onnx", nano.spec, qparams, target, tmp_path, precision="int8")
    wanted = backends.open_artefact(tmp_path, artefact, nano.spec, threads=1).run(images)
    with open_bundle(npu_bundle) as bundle:
        artefact = bundle.manifest.artefact
        assert (bundle.folder / artefact.files["rknn"]).read_bytes()[:4] == b"RKNN"
        assert artefact.engine_version == "2.5.0" and artefact.layers == {"int8": 55, "float": 3}
        session = backends.open_artefact(bundle.folder, artefact, nano.spec)
        together, alone = session.run(images), session.run(images[1:])
        for found, single, map_ in zip(together, alone, wanted, strict=True):
            assert found.shape == map_.shape and rms(found - map_) < 0.02 * map_.std()
            np.testing.assert_array_equal(found[1:], single)
        for wrong in (images[0], images[:0], images[..., :32], images.astype(np.float64)):
            with pytest.raises(BackendError):
                session.run(wrong)
        session.close()
        session.close()
        with pytest.raises(BackendError, match="closed"):
            session.run(images)


def test_a_bundle_of_another_model_is_refused(npu_bundle: Path, nano: QuantizedModel) -> None:
    two_maps = msgspec.structs.replace(
        nano.spec, decode=msgspec.structs.replace(nano.spec.decode, strides=nano.spec.decode.strides[:2])
    )
    with open_bundle(npu_bundle) as bundle, pytest.raises(BackendError, match="gives 3 maps, and the model 2"):
        backends.open_artefact(bundle.folder, bundle.manifest.artefact, two_maps)
