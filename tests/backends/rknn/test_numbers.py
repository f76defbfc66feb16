"""The simulator computes in int8 with our scales: a reference's integers, and ONNX Runtime's maps of a network."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from any_spec import any_spec
from one_layer import OneLayer, QuantizedModel
from onnx import helper, numpy_helper

from edgeyolo import backends
from edgeyolo.backends.rknn.graph import make_graph
from edgeyolo.backends.rknn.options import Options
from edgeyolo.backends.rknn.simulator import SimulatorSession
from edgeyolo.bundle import open_bundle
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.qparams import LayerPrecision, QParams, TensorGroup, WeightScales, load_qparams
from edgeyolo.spec.target import load_target

IMAGE_HW = (16, 32)
STEP = 1 / 50  # scale of what the layer writes
WRONG = 0.25  # of a scale: values beyond a quarter of the range are cut off


def write_shown(layer: OneLayer, folder: Path, step: float) -> tuple[Path, QParams]:
    """The layer, then one that only shows the integers which the first has written: its kernel is the identity."""
    path, qparams = layer.write(folder)
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[0] = node.output[0].replace("map_0", "written")
    model.graph.node.append(helper.make_node("Conv", ["written", "shows.weight"], ["map_0"], kernel_shape=[1, 1]))
    eye = np.eye(layer.out_chs, dtype=np.float32)[:, :, None, None]
    model.graph.initializer.append(numpy_helper.from_array(eye, "shows.weight"))
    onnx.save(model, path)
    return path, msgspec.structs.replace(
        qparams,
        onnx_sha256=sha256_of(path),
        groups=qparams.groups | {"g1": TensorGroup(tensors=("written",), scale=step, how="hand")},
        weights=qparams.weights | {"shows.weight": WeightScales(scales=(1 / 127,) * layer.out_chs, how="hand")},
        layers=qparams.layers | {"shows": LayerPrecision(precision="int8", weight="shows.weight", group="g1")},
    )


def simulate(layer: OneLayer, toolkit: Path, folder: Path, step: float = STEP) -> np.ndarray:
    """The integers that the layer writes."""
    graph, layers = make_graph(*write_shown(layer, folder, step), (1, 1))
    assert layers == {"int8": 1, "float": 1}  # the one that shows writes the map, which is float
    (folder / "qdq.onnx").write_bytes(graph.SerializeToString())
    session = SimulatorSession(toolkit, folder / "qdq.onnx", Options("rk3588"), any_spec(IMAGE_HW))
    (found,) = session.run(layer.images())
    session.close()
    return np.rint(found / step)


def expected(layer: OneLayer, step: float = STEP) -> np.ndarray:
    return np.clip(np.rint(layer.expected(layer.images()) / step), -128, 127)


def differing(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape and 0 < np.abs(wanted).mean() < 100
    return float((found != wanted).mean())


@pytest.mark.parametrize(
    "layer",
    [
        OneLayer(image_hw=IMAGE_HW),
        OneLayer(image_hw=IMAGE_HW, out_chs=15, groups=3, stride=2, activation="Relu"),
        OneLayer(image_hw=IMAGE_HW, activation="LeakyRelu"),
    ],
    ids=["plain", "grouped", "leaky"],
)
def test_one_layer_has_the_integers_of_the_reference(layer: OneLayer, toolkit: Path, tmp_path: Path) -> None:
    """Its largest weights are negative, as the toolkit has none of 127. With scales as it makes them of ours if it is
    not prevented, one integer in six is another."""
    flat = layer.weight.reshape(layer.out_chs, -1)
    widest = flat[np.arange(layer.out_chs), np.abs(flat).argmax(axis=1)]
    layer.weight *= -np.sign(widest)[:, None, None, None]
    assert differing(simulate(layer, toolkit, tmp_path), expected(layer)) < 0.01


def test_weights_of_127_cost_a_step_at_most_here_and_there(toolkit: Path, tmp_path: Path) -> None:
    layer = OneLayer(image_hw=IMAGE_HW)
    found, wanted = simulate(layer, toolkit, tmp_path), expected(layer)
    assert differing(found, wanted) < 0.1 and np.abs(found - wanted).max() <= 1


@pytest.mark.parametrize("which", ["input", "output"])
def test_a_wrong_scale_is_found(which: str, toolkit: Path, tmp_path: Path) -> None:
    """It is planted in the scales: the simulator follows it, and so is as far from the right result as it should be."""
    right, step = OneLayer(image_hw=IMAGE_HW), STEP
    wrong = OneLayer(image_hw=IMAGE_HW, step=right.step * WRONG) if which == "input" else right
    wrong_step = step * WRONG if which == "output" else step
    found = simulate(wrong, toolkit, tmp_path, wrong_step)
    assert differing(found, expected(wrong, wrong_step)) < 0.1
    moved = np.abs(expected(wrong, wrong_step) * wrong_step - expected(right) * step).mean()
    assert moved > 3 * step
    assert np.abs(found * wrong_step - expected(right) * step).mean() == pytest.approx(moved, rel=0.02)


def test_a_bundle_gives_onnx_runtimes_maps(npu_bundle: Path, nano: QuantizedModel, tmp_path: Path) -> None:
    images = np.random.default_rng(3).random((2, 3, *nano.spec.input.image_hw), dtype=np.float32)
    qparams, target = load_qparams(nano.folder / "qparams.json"), load_target("host-onnx")
    artefact = backends.build(nano.folder / "model.onnx", nano.spec, qparams, target, tmp_path, precision="int8")
    wanted = backends.open_artefact(tmp_path, artefact, nano.spec, threads=1).run(images)
    with open_bundle(npu_bundle) as bundle:
        artefact = bundle.manifest.artefact
        assert (bundle.folder / artefact.files["rknn"]).read_bytes()[:4] == b"RKNN"
        assert artefact.engine_version == "2.5.0" and artefact.layers == {"int8": 52, "float": 6}
        rknn, graph = ((bundle.folder / artefact.files[role]).stat().st_size for role in ("rknn", "onnx"))
        assert rknn < 2 * graph  # whose weights have a byte each; in float16 it has 2.4 times its bytes
        session = backends.open_artefact(bundle.folder, artefact, nano.spec)
        together, alone = session.run(images), session.run(images[1:])
        for found, single, map_ in zip(together, alone, wanted, strict=True):
            assert found.shape == map_.shape and np.sqrt(np.square(found - map_).mean()) < 0.02 * map_.std()
            np.testing.assert_array_equal(found[1:], single)
        for wrong in (images[0], images[:0], images[..., :32], images.astype(np.float64)):
            with pytest.raises(BackendError):
                session.run(wrong)
        session.close()
        session.close()
        with pytest.raises(BackendError, match="closed"):
            session.run(images)


def test_four_pictures_at_a_time(toolkit: Path, tmp_path: Path) -> None:
    """Not square: six, four and one give what each gives alone. The NPU takes no open number."""
    layer = OneLayer(image_hw=IMAGE_HW)
    path, qparams = write_shown(layer, tmp_path, STEP)
    spec, target = any_spec(IMAGE_HW), load_target("rockchip-rk3588-npu")
    opened, four = (
        msgspec.structs.replace(spec, input=msgspec.structs.replace(spec.input, batch=batch))
        for batch in ((1, 4), (4, 4))
    )
    with pytest.raises(UsageError, match="Rockchip's NPU takes a fixed number of pictures, not 1 to 4"):
        backends.build(path, opened, qparams, target, tmp_path / "out", precision="int8")
    artefact = backends.build(path, four, qparams, target, tmp_path / "out", precision="int8")
    session = backends.open_artefact(tmp_path / "out", artefact, four)
    images = layer.images(6)
    (found,) = session.run(images)
    assert differing(np.rint(found / STEP), np.clip(np.rint(layer.expected(images) / STEP), -128, 127)) < 0.1
    for some in (images[:4], images[:1]):
        np.testing.assert_array_equal(session.run(some)[0], found[: len(some)])
    session.close()


def test_a_bundle_of_another_model_is_refused(npu_bundle: Path, nano: QuantizedModel) -> None:
    two_maps = msgspec.structs.replace(
        nano.spec, decode=msgspec.structs.replace(nano.spec.decode, strides=nano.spec.decode.strides[:2])
    )
    with open_bundle(npu_bundle) as bundle, pytest.raises(BackendError, match="gives 3 maps, and the model 2"):
        backends.open_artefact(bundle.folder, bundle.manifest.artefact, two_maps)
