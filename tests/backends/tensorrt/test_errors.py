"""Bad input and missing parts: each message says what, where, and what to do."""

from __future__ import annotations

import importlib.util
import shlex
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from any_spec import any_spec
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeyolo import verbs
from edgeyolo.backends import build, open_artefact
from edgeyolo.backends.tensorrt import compile_for
from edgeyolo.backends.tensorrt.adapter import Parsed, TensorRt, load_tensorrt
from edgeyolo.backends.tensorrt.dla import calibration_cache, dynamic_ranges, list_gpu_layers, make_implicit
from edgeyolo.backends.tensorrt.doctor import examine_gpu
from edgeyolo.backends.tensorrt.network import trtexec_command
from edgeyolo.backends.tensorrt.options import Options, make_options
from edgeyolo.bundle import open_bundle
from edgeyolo.graph.half import cast_to_half, half_scales
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import BackendError, FormatError, MissingPackageError, UnknownNameError, UsageError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.target import Target, load_target

SPEC = any_spec((8, 8))
STRONGLY_TYPED = ("jetson", "jetson-agx-orin", "jetson-agx-thor")
has_tensorrt = importlib.util.find_spec("tensorrt") is not None
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
RTX = make_options({"package": "tensorrt_rtx"})


def write_graph(path: Path, nodes: list[Any], shape: list[Any], constants: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    return path


def one_conv(path: Path, shape: list[Any], weight: float = 1.0) -> Path:
    nodes = [helper.make_node("Conv", ["images", "w"], ["map_0"], "conv")]
    return write_graph(path, nodes, shape, {"w": np.full((4, 3, 1, 1), weight, np.float32)})


def for_several(image_hw: tuple[int, int], batch: tuple[int, int]) -> ModelSpec:
    spec = any_spec(image_hw)
    return msgspec.structs.replace(spec, input=msgspec.structs.replace(spec.input, batch=batch))


@pytest.mark.skipif(has_tensorrt, reason="tensorrt is installed here")
@pytest.mark.parametrize(
    "target",
    ["jetson", "jetson-agx-orin", "jetson-agx-thor", "jetson-orin-jetpack60", "jetson-xavier-nx", "jetson-nano"],
)
def test_without_tensorrt_the_bundle_is_complete_and_says_what_is_missing(
    quantized_model: Any, target: str, tmp_path: Path
) -> None:
    path = tmp_path / "cells.eyb"
    manifest = verbs.deploy(quantized_model("yolov7-nano", 128).folder, target, path).manifest
    precision = load_target(target).precisions[0]
    assert manifest.artefact.precision == precision
    assert manifest.target == ("jetson-orin-nano" if target == "jetson" else target)
    with open_bundle(path) as bundle:
        load_onnx(bundle.folder / "model.onnx")
        command = (bundle.folder / "trtexec.txt").read_text()
        assert command.startswith("trtexec --onnx=model.onnx --saveEngine=model.plan")
        assert ("--stronglyTyped" in command) == (target in STRONGLY_TYPED)
        assert (bundle.folder / "qparams.json").is_file() == (precision == "int8")
    with pytest.raises(MissingPackageError, match=r"'tensorrt' is needed.*apt.*--system-site-packages") as error:
        Detector.load(path)
    assert error.value.exit_code == 3


def test_a_board_without_int8_says_so(quantized_model: Any, tmp_path: Path) -> None:
    folder = quantized_model("yolov7-nano", 128).folder
    with pytest.raises(UnknownNameError, match="int8") as error:
        verbs.deploy(folder, "jetson-nano", tmp_path / "x.eyb", precision="int8")
    assert "fp16" in str(error.value)
    assert "no INT8" in load_target("jetson-nano").title


@needs_rtx
def test_an_operator_that_tensorrt_has_not_is_named_at_deploy(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["images"], ["map_0"], "odd one")]
    path = write_graph(tmp_path / "model.onnx", nodes, [1, 3, 8, 8], {})
    target = Target(title="test", engine="tensorrt", precisions=("fp32",))
    with pytest.raises(BackendError, match="Det 'odd one'"):
        build(path, SPEC, None, target, tmp_path / "out", precision="fp32")


def test_an_open_image_size_is_refused(tmp_path: Path) -> None:
    path = one_conv(tmp_path / "model.onnx", [1, 3, "h", "w"])
    target = Target(title="test", engine="tensorrt", precisions=("fp16",))
    with pytest.raises(BackendError, match="only its batch may be open"):
        build(path, SPEC, None, target, tmp_path / "out", precision="fp16")


@needs_rtx
def test_an_open_batch_builds_with_a_profile(tmp_path: Path) -> None:
    path = one_conv(tmp_path / "model.onnx", ["batch", 3, 32, 32])
    options = {"package": "tensorrt_rtx", "max_batch": 4}
    target = Target(title="test", engine="tensorrt", precisions=("fp16",), engine_options=options)
    build(path, SPEC, None, target, tmp_path / "out", precision="fp16")
    assert compile_for(tmp_path / "out/model.onnx", make_options(options), "fp16", capability="8.6")
    assert "--maxShapes=images:4x3x32x32" in (tmp_path / "out/trtexec.txt").read_text()


@needs_rtx
@pytest.mark.parametrize("batch", [(4, 4), (1, 4)])
def test_a_graph_for_one_picture_becomes_a_plan_for_several(batch: tuple[int, int], tmp_path: Path) -> None:
    path, spec = one_conv(tmp_path / "model.onnx", [1, 3, 32, 64]), for_several((32, 64), batch)
    options = {"package": "tensorrt_rtx"}
    target = Target(title="test", engine="tensorrt", precisions=("fp16",), engine_options=options)
    artefact = build(path, spec, None, target, tmp_path / "out", precision="fp16")
    assert artefact.options["max_batch"] == 4
    assert compile_for(tmp_path / "out/model.onnx", make_options(artefact.options), "fp16", capability="8.6")
    shapes = "--minShapes=images:1x3x32x64 --optShapes=images:4x3x32x64 --maxShapes=images:4x3x32x64"
    assert (shapes in (tmp_path / "out/trtexec.txt").read_text()) == (batch == (1, 4))


def test_dla_takes_a_fixed_number_of_pictures(tmp_path: Path) -> None:
    path = one_conv(tmp_path / "model.onnx", [1, 3, 8, 8])
    options = {"strongly_typed": False, "dla_core": 0}
    target = Target(title="test", engine="tensorrt", precisions=("fp16",), dla_cores=1, engine_options=options)
    with pytest.raises(
        UsageError, match=r"DLA takes a fixed number of pictures, not 1 to 4\. Deploy it with --batch 4"
    ):
        build(path, for_several((8, 8), (1, 4)), None, target, tmp_path / "out", precision="fp16")


@needs_rtx
def test_an_unknown_capability_names_the_known(tmp_path: Path) -> None:
    path = one_conv(tmp_path / "model.onnx", [1, 3, 8, 8])
    with pytest.raises(UsageError, match=r"cannot build for compute capability 8.7.*SM86"):
        compile_for(path, RTX, "fp32", capability="8.7")


@needs_rtx
def test_builder_flags_are_refused_where_they_are_gone(tmp_path: Path) -> None:
    path = one_conv(tmp_path / "model.onnx", [1, 3, 8, 8])
    options = make_options({"package": "tensorrt_rtx", "strongly_typed": False})
    with pytest.raises(UsageError, match="strongly typed networks only"):
        compile_for(path, options, "fp16", capability="8.6")


@needs_rtx
def test_without_a_gpu_loading_says_so(quantized_model: Any, tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is an NVIDIA GPU here")
    verbs.deploy(quantized_model("yolov7-nano", 128).folder, "rtx", tmp_path / "x.eyb")
    with pytest.raises(BackendError, match=r"no NVIDIA driver.*edgeyolo doctor"):
        Detector.load(tmp_path / "x.eyb")


@needs_rtx
def test_runs_as_onnx_runtime_does_on_a_gpu(quantized_model: Any, tmp_path: Path) -> None:
    """fp16 against float32 in ONNX Runtime, within 2 % of each map's range."""
    if not Path("/dev/nvidiactl").exists():
        pytest.skip("no NVIDIA GPU here: running a plan needs one")
    import onnxruntime

    model = quantized_model("yolov7-nano", 128)
    target = Target(title="t", engine="tensorrt", precisions=("fp16",), engine_options={"package": "tensorrt_rtx"})
    artefact = build(model.folder / "model.onnx", model.spec, None, target, tmp_path, precision="fp16")
    session = open_artefact(tmp_path, artefact, model.spec)
    reference = onnxruntime.InferenceSession(str(model.folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for seed in range(3):  # the second and third run replay the CUDA graph
        images = np.random.default_rng(seed).random((1, 3, 128, 128), dtype=np.float32)
        for a, b in zip(session.run(images), reference.run(None, {"images": images}), strict=True):
            assert np.abs(a - b).max() < 0.02 * np.ptp(b)
    session.close()


@needs_rtx
def test_the_real_runtime_refuses_what_is_no_plan(caplog: pytest.LogCaptureFixture) -> None:
    assert load_tensorrt("tensorrt_rtx").deserialize(b"no plan" * 20, RTX) is None
    assert "Serialization" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workspace": 1}, "Did you mean 'workspace_mib'"),
        ({"workspace_mib": "1"}, "Give a int"),
        ({"workspace_mib": -1}, "from 0 to"),
        ({"builder_level": 9}, "from -1 to 5"),
        ({"dla_core": True}, "Give a int"),
        ({"package": "trt"}, "tensorrt or tensorrt_rtx"),
        ({"candidates": 5000}, "from 1 to 3840"),
    ],
)
def test_wrong_options_say_what_is_right(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_options(values)


def test_weights_that_float16_cannot_hold_are_named(tmp_path: Path) -> None:
    model = load_onnx(one_conv(tmp_path / "model.onnx", [1, 3, 8, 8], weight=1e6))
    with pytest.raises(BackendError, match="w: holds values that float16 does not"):
        cast_to_half(model)


def test_ranges_that_float16_cannot_hold_are_named(one_layer: Any, tmp_path: Path) -> None:
    _, qparams = one_layer(step=1000.0).write(tmp_path)
    with pytest.raises(BackendError, match=r"group g0.*float16 ends at 65504"):
        half_scales(qparams)


def test_tiny_scales_stay_positive(one_layer: Any, tmp_path: Path) -> None:
    _, qparams = one_layer(step=1e-12).write(tmp_path)
    assert half_scales(qparams).groups["g0"].scale == 2.0**-24


def test_dla_and_strong_typing_exclude_each_other(tmp_path: Path) -> None:
    path = one_conv(tmp_path / "model.onnx", [1, 3, 8, 8])
    options = {"dla_core": 0}
    target = Target(title="test", engine="tensorrt", precisions=("fp16",), dla_cores=1, engine_options=options)
    with pytest.raises(UsageError, match="strongly_typed = false"):
        build(path, SPEC, None, target, tmp_path / "out", precision="fp16")


def test_a_dla_core_that_the_board_has_not_is_refused(tmp_path: Path) -> None:
    path = one_conv(tmp_path / "model.onnx", [1, 3, 8, 8])
    options = {"strongly_typed": False, "dla_core": 1}
    target = Target(title="one core", engine="tensorrt", precisions=("fp16",), dla_cores=1, engine_options=options)
    with pytest.raises(UsageError, match="dla_core is 1, and the target has 1 DLA cores"):
        build(path, SPEC, None, target, tmp_path / "out", precision="fp16")


def test_a_range_of_versions_that_is_none_is_refused_on_the_host(tmp_path: Path) -> None:
    path = one_conv(tmp_path / "model.onnx", [1, 3, 8, 8])
    target = Target(title="board", engine="tensorrt", precisions=("fp16",), engine_versions="10 or so")
    with pytest.raises(FormatError, match="'10 or so' is not a version range"):
        build(path, SPEC, None, target, tmp_path / "out", precision="fp16")


def test_the_command_is_the_plan_s(tmp_path: Path) -> None:
    """Every option that changes the plan and that NVIDIA's tool has is in it."""

    def command(precision: Any, shape: list[int], **values: Any) -> str:
        return trtexec_command(make_options(values), precision, shape)

    fixed, begin = [1, 3, 64, 96], "--onnx=model.onnx --saveEngine=model.plan"
    assert command("int8", fixed) == f"trtexec {begin} --stronglyTyped"
    assert command("fp32", fixed, package="tensorrt_rtx") == f"tensorrt_rtx {begin} --noTF32"
    old = command("int8", fixed, strongly_typed=False, workspace_mib=256, builder_level=5)
    assert old == f"trtexec {begin} --fp16 --int8 --memPoolSize=workspace:256 --builderOptimizationLevel=5"
    opened = command("fp16", [0, 3, 64, 96], max_batch=8)
    shapes = [f"--{kind}Shapes=images:{count}x3x64x96" for kind, count in (("min", 1), ("opt", 8), ("max", 8))]
    assert opened == f"trtexec {begin} --stronglyTyped {' '.join(shapes)}"


def test_bf16_is_refused(tmp_path: Path) -> None:
    path = one_conv(tmp_path / "model.onnx", [1, 3, 8, 8])
    for strongly_typed in (True, False):
        options = {"strongly_typed": strongly_typed}
        target = Target(title="test", engine="tensorrt", precisions=("bf16",), engine_options=options)
        with pytest.raises(UsageError, match="int8, fp8, fp16 or fp32, not bf16"):
            build(path, SPEC, None, target, tmp_path / "out", precision="bf16")


@needs_rtx
def test_an_open_image_size_is_refused_by_the_builder_too(tmp_path: Path) -> None:
    """Of an ONNX that did not come through `build`."""
    with pytest.raises(BackendError, match="only its batch may be open"):
        compile_for(one_conv(tmp_path / "model.onnx", [1, 3, "h", "w"]), RTX, "fp32", capability="8.6")


@needs_rtx
def test_an_open_batch_with_int8_and_decoding_builds(fresh_model: Any, tmp_path: Path) -> None:
    model = fresh_model("yolov7-nano", 64, tmp_path / "source", settled=False, dynamic_batch=True)
    qparams = load_qparams(model.folder / "qparams.json")
    options = {"package": "tensorrt_rtx", "max_batch": 4}
    target = Target(title="t", engine="tensorrt", precisions=("int8",), postprocess="graph", engine_options=options)
    build(model.folder / "model.onnx", model.spec, qparams, target, tmp_path / "out", precision="int8")
    assert compile_for(tmp_path / "out/model.onnx", make_options(options), "int8", capability="8.6")


def test_resize_keeps_its_sizes_in_float32(tmp_path: Path) -> None:
    """Also where they are a Constant node: ONNX has them in no other type."""
    nodes = [
        helper.make_node("Constant", [], ["twice"], value=numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32))),
        helper.make_node("Resize", ["images", "", "twice"], ["map_0"], mode="nearest"),
    ]
    model = load_onnx(write_graph(tmp_path / "model.onnx", nodes, [1, 3, 8, 8], {}))
    half = cast_to_half(model)
    images = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    (found,) = ReferenceEvaluator(half).run(None, {"images": images})
    np.testing.assert_allclose(found, images.repeat(2, axis=2).repeat(2, axis=3), atol=1e-3)


def test_doctor_names_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a screen of lines; each thing that is wrong has something to do about it."""

    def absent(package: str, **about: Any) -> Any:
        raise MissingPackageError(package, needed_for="", install="")

    monkeypatch.setattr("edgeyolo.backends.tensorrt.adapter.import_package", absent)
    monkeypatch.setattr("edgeyolo.backends.tensorrt.cuda.import_package", absent)
    findings = {finding.what: finding for finding in examine_gpu()}
    assert len(findings) < 12
    assert findings["tensorrt"].found == "missing"
    assert "sudo apt install tensorrt" in findings["tensorrt"].hint
    assert 'pip install "edgeyolo[tensorrt]"' in findings["tensorrt_rtx"].hint
    assert "cuda-python" in findings["CUDA driver"].found + findings["CUDA driver"].hint

    def broken(package: str, **about: Any) -> Any:
        raise BackendError(f"'{package}' does not import (libcudart.so.12: cannot open shared object file)")

    monkeypatch.setattr("edgeyolo.backends.tensorrt.adapter.import_package", broken)
    findings = {finding.what: finding for finding in examine_gpu()}
    assert "libcudart.so.12" in findings["tensorrt"].found
    assert "Reinstall" in findings["tensorrt"].hint


def test_doctor_says_when_there_is_no_driver() -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is an NVIDIA GPU here")
    finding = {finding.what: finding for finding in examine_gpu()}["CUDA driver"]
    assert "no NVIDIA driver" in finding.found
    assert "--runtime nvidia" in finding.hint


def test_dla_report_and_ranges(quantized_model: Any) -> None:
    """Every tensor between int8 layers has a range; what DLA has no layer for is listed."""
    nano, ppyoloe = (quantized_model(name, 128).folder for name in ("yolov7-nano", "ppyoloe-s"))
    assert list_gpu_layers(load_onnx(nano / "model.onnx").graph) == {}
    reasons = list_gpu_layers(load_onnx(ppyoloe / "model.onnx").graph).values()
    assert {reason.split(":")[0] for reason in reasons} == {"GlobalAveragePool", "HardSigmoid"}

    graph, qparams = load_onnx(nano / "model.onnx").graph, load_qparams(nano / "qparams.json")
    ranges = dynamic_ranges(graph, qparams)
    int8 = {layer.weight for layer in qparams.layers.values() if layer.precision == "int8"}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in int8:
            assert ranges[node.input[0]] > 0
    for node in graph.node:
        if node.op_type == "Concat":
            assert len({ranges[name] for name in (*node.input, node.output[0])}) == 1

    graph, qparams = load_onnx(ppyoloe / "model.onnx").graph, load_qparams(ppyoloe / "qparams.json")
    ranges = dynamic_ranges(graph, qparams)
    gates = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Sigmoid"}
    swishes = [(n.output[0], gates[x]) for n in graph.node for x in n.input if x in gates and gates[x] in n.input]
    read_in_int8 = [(output, given) for output, given in swishes if output in ranges]
    assert len(read_in_int8) > 20
    assert all(ranges[output] == ranges[given] for output, given in read_in_int8)


def test_dla_int8_keeps_the_graph_free_of_qdq(quantized_model: Any, tmp_path: Path) -> None:
    model = quantized_model("yolov7-nano", 128)
    folder, spec = model.folder, model.spec
    options = {"strongly_typed": False, "dla_core": 0}
    target = Target(title="t", engine="tensorrt", precisions=("int8", "fp16"), dla_cores=1, engine_options=options)
    qparams = load_qparams(folder / "qparams.json")
    artefact = build(folder / "model.onnx", spec, qparams, target, tmp_path, precision="int8")
    assert "QuantizeLinear" not in {node.op_type for node in load_onnx(tmp_path / "model.onnx").graph.node}
    assert artefact.layers == {"int8": 55, "float": 3}
    assert artefact.files.keys() == {"onnx", "qparams", "calibration", "trtexec"}
    graph = load_onnx(tmp_path / "model.onnx").graph
    lines = (tmp_path / artefact.files["calibration"]).read_text().splitlines()
    assert lines[0] == "TRT-8500-EntropyCalibration2"
    told = dict(line.split(": ") for line in lines[1:])
    wanted = dynamic_ranges(graph, qparams)
    assert told.keys() == wanted.keys()
    for tensor, value in wanted.items():  # a big-endian float32 of range / 127
        assert np.frombuffer(bytes.fromhex(told[tensor]), ">f4")[0] == pytest.approx(value / 127, rel=1e-6)
    words = shlex.split((tmp_path / artefact.files["trtexec"]).read_text())
    assert {"--int8", "--fp16", "--useDLACore=0", "--calib=calibration.cache", "--precisionConstraints=prefer"} <= set(
        words
    )
    (pins,) = (word.partition("=")[2] for word in words if word.startswith("--layerPrecisions="))
    pinned = dict(pin.rsplit(":", 1) for pin in pins.split(","))
    heads = {
        node.name for node in graph.node if node.op_type == "Conv" and node.output[0] in ("map_0", "map_1", "map_2")
    }
    assert {name for name, precision in pinned.items() if precision == "fp16"} == heads
    assert Counter(pinned.values()) == {"int8": 55, "fp16": 3}
    artefact = build(folder / "model.onnx", spec, None, target, tmp_path / "fp16", precision="fp16")
    command = (tmp_path / "fp16" / artefact.files["trtexec"]).read_text()
    assert "--fp16 --useDLACore=0 --allowGPUFallback" in command


@pytest.mark.parametrize(
    ("versions", "number"),
    [("", 8500), (">=8.6,<9", 8600), (">=8.5.2,<9", 8502), (">=10.3", 100300), ("~=10.13", 101300)],
)
def test_a_calibration_cache_names_the_target_s_tensorrt(versions: str, number: int) -> None:
    assert calibration_cache({"images": 127.0}, versions) == f"TRT-{number}-EntropyCalibration2\nimages: 3f800000\n"


def test_layers_on_dla_are_told_their_precision(quantized_model: Any) -> None:
    """On a network that is a stand-in; TensorRT 8 and 10 have these calls."""
    model = quantized_model("yolov7-nano", 128)
    graph = load_onnx(model.folder / "model.onnx").graph
    told = make_implicit(graph, load_qparams(model.folder / "qparams.json"))
    layers = [SimpleNamespace(name=node.name, precision="", num_outputs=0) for node in graph.node]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__, num_inputs=0)
    flags: list[str] = []
    module = SimpleNamespace(
        DataType=SimpleNamespace(INT8="int8", HALF="fp16"),
        BuilderFlag=SimpleNamespace(PREFER_PRECISION_CONSTRAINTS="prefer"),
    )
    parsed = Parsed(TensorRt("tensorrt", module, "8.6.2"), None, network, None, None)
    parsed.tell(SimpleNamespace(set_flag=flags.append), told)
    assert flags == ["prefer"]
    assert Counter(layer.precision for layer in layers) == {"int8": 55, "fp16": 3, "": len(layers) - 58}


def test_defaults_are_the_documented_ones() -> None:
    assert make_options({}) == Options()
    assert make_options({"dla_core": 1}).dla_core == 1
