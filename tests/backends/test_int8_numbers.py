"""int8 of one layer, against integers multiplied in plain numpy: exact up to float32 rounding, on both engines.

Inputs are random, so none lies on a rounding edge, where ncnn (half away from zero) and ONNX (half to even) differ.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from any_spec import any_spec

from edgeyolo import backends
from edgeyolo.backends.ncnn.files import parse_param, read_bin
from edgeyolo.spec.errors import BackendError, UnknownNameError, UsageError
from edgeyolo.spec.target import Target

SPEC = any_spec((12, 20))
ENGINES = ("ncnn", "onnxruntime")


def make_target(engine: str, **changes: object) -> Target:
    return Target(**{"title": "test", "engine": engine, "precisions": ("int8", "fp16", "bf16", "fp32"), **changes})


def run(path, qparams, target, out: Path, images, *, precision="int8", image_hw=(12, 20)):
    artefact = backends.build(path, any_spec(image_hw), qparams, target, out, precision=precision)
    session = backends.open_artefact(out, artefact, any_spec(image_hw), threads=1)
    return artefact, session.run(images)[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel": 1},
        {"stride": 2},
        {"kernel": 6, "stride": 2},
        {"groups": 3, "out_chs": 3},
        {"groups": 3, "out_chs": 3, "stride": 2, "activation": "Relu"},
        {"activation": "LeakyRelu", "out_chs": 17},
        {"step": 0.003},
        {"bits": 6},
        {"image_hw": (7, 9)},
    ],
    ids=str,
)
def test_one_convolution(one_layer, engine: str, options: dict, tmp_path: Path) -> None:
    layer = one_layer(**options)
    path, qparams = layer.write(tmp_path)
    images = layer.images()
    artefact, map_ = run(path, qparams, make_target(engine), tmp_path / "o", images, image_hw=layer.image_hw)
    assert artefact.layers == {"int8": 1, "float": 0}
    # A clipped negative may be -128 in ONNX and -127 in ncnn; these inputs are above -127 steps.
    assert images.min() / layer.step > -127
    np.testing.assert_allclose(map_, layer.expected(images), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_channels_of_zeros_give_the_bias(one_layer, engine: str, tmp_path: Path) -> None:
    layer = one_layer()
    layer.weight[2] = 0
    path, qparams = layer.write(tmp_path)
    scales = list(qparams.weights["body.conv.weight"].scales)
    scales[2] = 1e-42  # what a calibrator may leave where the range is empty; its inverse is no float32
    weights = {"body.conv.weight": msgspec.structs.replace(qparams.weights["body.conv.weight"], scales=tuple(scales))}
    images = layer.images()
    _, map_ = run(path, msgspec.structs.replace(qparams, weights=weights), make_target(engine), tmp_path, images)
    np.testing.assert_allclose(map_[:, 2], layer.bias[2])
    np.testing.assert_allclose(map_, layer.expected(images), atol=2e-5, rtol=1e-4)


def test_grouped_convolution_has_one_scale_per_group(one_layer, tmp_path: Path) -> None:
    """ncnn has no scale per channel there: the widest of the group is taken, so nothing is clipped."""
    layer = one_layer(groups=3, out_chs=12)
    path, qparams = layer.write(tmp_path)
    images = layer.images()
    _, map_ = run(path, qparams, make_target("ncnn"), tmp_path, images)
    layer.weight_steps = lambda: np.abs(layer.weight).reshape(3, -1).max(axis=1).repeat(4) / 127
    np.testing.assert_allclose(map_, layer.expected(images), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_depthwise_convolution_has_a_scale_for_each_channel(one_layer, engine: str, tmp_path: Path) -> None:
    layer = one_layer(groups=3, out_chs=3)
    path, qparams = layer.write(tmp_path)
    assert len(set(qparams.weights["body.conv.weight"].scales)) == 3
    images = layer.images()
    _, map_ = run(path, qparams, make_target(engine), tmp_path, images)
    np.testing.assert_allclose(map_, layer.expected(images), atol=4e-4 if engine == "ncnn" else 2e-5, rtol=1e-4)


def test_full_8_bit_weights_do_not_overflow_without_f43(tmp_path: Path) -> None:
    """The shelf's host target, in the worst case: 256 channels of 127 times inputs of 127."""
    from onnx import TensorProto, helper, numpy_helper, save

    from edgeyolo.spec.provenance import sha256_of
    from edgeyolo.spec.qparams import CalibrationRecord, LayerPrecision, QParams, TensorGroup, WeightScales
    from edgeyolo.spec.target import load_target

    arrays = {"wide.weight": np.ones((256, 3, 1, 1)), "deep.weight": np.ones((16, 256, 3, 3))}
    nodes = [
        helper.make_node("Conv", ["images", "wide.weight"], ["x"]),
        helper.make_node("Conv", ["x", "deep.weight"], ["map_0"], pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [1, None, None, None])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in arrays.items()],
    )
    path = tmp_path / "model.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    qparams = QParams(
        onnx_sha256=sha256_of(path),
        groups={"a": TensorGroup(tensors=("x",), scale=3 / 127, how="hand")},
        weights={"deep.weight": WeightScales(scales=(1 / 127,) * 16, how="hand")},
        layers={"deep": LayerPrecision(precision="int8", weight="deep.weight", group="a")},
        calibration=CalibrationRecord(recipe="hand", method="ptq", count=0, seed=0, pictures={}),
    )
    target = load_target("host-ncnn")
    _, map_ = run(path, qparams, target, tmp_path / "o", np.ones((1, 3, 16, 16), np.float32), image_hw=(16, 16))
    np.testing.assert_allclose(map_[:, :, 1:-1, 1:-1], 3 * 256 * 9, rtol=1e-5)


def test_ncnn_file_has_the_integers_and_multipliers(one_layer, tmp_path: Path) -> None:
    layer = one_layer()
    path, qparams = layer.write(tmp_path)
    backends.build(path, SPEC, qparams, make_target("ncnn"), tmp_path / "o", precision="int8")
    layers = parse_param((tmp_path / "o/model.ncnn.param").read_text(), where="p")
    convolution = read_bin(layers, (tmp_path / "o/model.ncnn.bin").read_bytes(), where="b")[1]
    weight, bias, weight_scales, input_scale = (blob.values for blob in convolution.weights)
    assert convolution.params[8] == 2
    assert weight.dtype == np.int8
    assert np.abs(weight.astype(int)).reshape(16, -1).max(axis=1).tolist() == [127] * 16
    np.testing.assert_array_equal(bias, layer.bias)
    np.testing.assert_allclose(weight_scales, 1 / layer.weight_steps(), rtol=1e-6)
    np.testing.assert_allclose(input_scale, [127], rtol=1e-6)


def test_layers_are_found_by_content_not_order(one_layer, tmp_path: Path) -> None:
    """Equal weights are fine with equal scales, and refused with others."""
    import onnx
    from onnx import helper, numpy_helper

    layer = one_layer(out_chs=3)
    path, qparams = layer.write(tmp_path)
    model = onnx.load(path)
    model.graph.node[0].output[0] = "x"
    model.graph.initializer.append(numpy_helper.from_array(layer.weight, "twin.weight"))
    model.graph.node.append(helper.make_node("Conv", ["x", "twin.weight"], ["map_0"], pads=[1] * 4))
    onnx.save(model, path)
    weights = qparams.weights | {"twin.weight": qparams.weights["body.conv.weight"]}
    twin = msgspec.structs.replace(qparams.layers["body.conv"], weight="twin.weight")
    digest = layer.qparams(path).onnx_sha256
    both = msgspec.structs.replace(qparams, onnx_sha256=digest, weights=weights, layers=qparams.layers | {"twin": twin})
    artefact = backends.build(path, SPEC, both, make_target("ncnn"), tmp_path / "o", precision="int8")
    assert artefact.layers == {"int8": 2, "float": 0}
    one = msgspec.structs.replace(both, layers=qparams.layers)
    with pytest.raises(BackendError, match="equal weights"):
        backends.build(path, SPEC, one, make_target("ncnn"), tmp_path / "o", precision="int8")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_ncnn_float_precisions(one_layer, precision: str, tmp_path: Path) -> None:
    layer = one_layer()
    path, _ = layer.write(tmp_path)
    target = make_target("ncnn", cpu_features=("asimdhp",))
    artefact, map_ = run(path, None, target, tmp_path / "o", layer.images(), precision=precision)
    layer.step, layer.bits = 1e-5, 30
    np.testing.assert_array_less(
        np.abs(map_ - float_reference(layer)), {"fp32": 1e-5, "fp16": 5e-3, "bf16": 5e-2}[precision]
    )
    assert artefact.options["use_fp16_arithmetic"] is (precision == "fp16")
    assert artefact.options["use_bf16_storage"] is (precision == "bf16")
    halves = 2 if precision == "fp16" else 4
    assert (tmp_path / "o/model.ncnn.bin").stat().st_size == 4 + 16 * 27 * halves + 16 * 4


def float_reference(layer) -> np.ndarray:
    padded = np.pad(layer.images(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, layer.weight) + layer.bias[:, None, None]


def test_float_remainder_is_half_on_arm_boards(one_layer, tmp_path: Path) -> None:
    path, qparams = one_layer().write(tmp_path)
    options = {}
    for machine in ("aarch64", ""):
        target = make_target("ncnn", machine=machine)
        options[machine] = backends.build(path, SPEC, qparams, target, tmp_path / "o", precision="int8").options
    assert options["aarch64"]["use_fp16_storage"] is True
    assert options["aarch64"]["use_fp16_arithmetic"] is False  # no asimdhp among the features
    assert options[""]["use_fp16_storage"] is False


def test_options_are_checked_again_when_opening(one_layer, tmp_path: Path) -> None:
    path, _ = one_layer().write(tmp_path)
    artefact = backends.build(path, SPEC, None, make_target("ncnn"), tmp_path / "o", precision="fp32")
    for options, error, text in (
        ({"use_winograd43_convolutions": True}, UnknownNameError, "use_winograd43_convolution'"),
        ({"use_winograd43_convolution": 1}, UsageError, "bool"),
        ({"num_threads": 4}, UnknownNameError, "num_threads"),
        ({"use_int8_inference": False}, UsageError, "use_int8_inference"),  # the engine gives NaN
    ):
        with pytest.raises(error, match=text):
            backends.open_artefact(
                tmp_path / "o",
                msgspec.structs.replace(artefact, options=options),
                SPEC,
            )


def test_weight_too_large_for_half(one_layer, tmp_path: Path) -> None:
    layer = one_layer()
    layer.weight[0, 0, 0, 0] = 1e6
    path, _ = layer.write(tmp_path)
    with pytest.raises(BackendError, match="half"):
        backends.build(path, SPEC, None, make_target("ncnn"), tmp_path / "o", precision="fp16")


def test_converter_failure_shows_what_it_said(one_layer, tmp_path: Path) -> None:
    """ncnn has no cumulative sum that pnnx converts to."""
    import onnx
    from onnx import helper

    path, _ = one_layer().write(tmp_path)
    model = onnx.load(path)
    model.graph.node[0].output[0] = "x"
    model.graph.node.append(helper.make_node("CumSum", ["x", "axis"], ["map_0"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "axis"))
    onnx.save(model, path)
    with pytest.raises(BackendError, match="no layer for CumSum"):
        backends.build(path, SPEC, None, make_target("ncnn"), tmp_path / "o", precision="fp32")
