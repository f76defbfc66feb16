"""What `deploy` writes for other programs, read as those programs read it, beside our own runtime."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from deepstream_reads import DeepStreamReads
from frigate_reads import FrigateReads, read_labels
from shared import make_once
from whole_way import WholeWay

from edgeyolo import handoffs, verbs
from edgeyolo.backends.tensorrt.adapter import load_tensorrt
from edgeyolo.backends.tensorrt.options import Options
from edgeyolo.bundle import open_bundle
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.coco_map import evaluate
from edgeyolo.geometry.boxes import box_iou
from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import BackendError, OutputError, UnknownNameError, UsageError
from edgeyolo.spec.model import GraphDecode, ModelRecord, ModelSpec
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Precision, list_targets, load_target

AS_MAP = {"pre-cluster-threshold": 0.001, "nms-iou-threshold": 0.65}
READERS: dict[str, Callable[[Path], Any]] = {
    "frigate": lambda folder: FrigateReads(folder, has_limits=False),
    "deepstream": lambda folder: DeepStreamReads(folder, AS_MAP),
}
MOST_OPSET, MOST_IR = 20, 10  # of TensorRT 10.3's parser, and of ONNX Runtime 1.18 and OpenVINO 2024


@pytest.fixture(scope="session")
def given(whole_way: WholeWay, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each program, in int8."""

    def make(folder: Path) -> None:
        for name in handoffs.list_programs():
            verbs.deploy(whole_way.quantized, name, folder / name)

    return make_once(tmp_path_factory, "handoffs", make)


def test_each_program_has_a_target_and_a_reader_here() -> None:
    named = {load_target(name).program for name in list_targets()} - {""}
    assert named == set(handoffs.list_programs()) == READERS.keys()


@pytest.mark.parametrize(("name", "precision"), [("frigate", "int8"), ("deepstream", "fp32")])
def test_what_the_program_reads_scores_as_our_own_runtime_does(
    name: str, precision: Precision, whole_way: WholeWay, tmp_path: Path
) -> None:
    """In the precision in which both networks do the same; int8 for DeepStream has float16 around it."""
    dataset = open_dataset(whole_way.data, "test")
    ours = verbs.measure_built(whole_way.quantized, "host-onnx", precision, dataset)
    verbs.deploy(whole_way.quantized, name, tmp_path / name, precision=precision)
    reader = READERS[name](tmp_path / name)
    theirs = evaluate(reader.detect, dataset, artefact=name)
    assert ours.ap > 30
    assert abs(theirs.ap - ours.ap) <= 0.2
    labels = [*reader.labels.values()] if isinstance(reader.labels, dict) else reader.labels
    assert labels == list(dataset.class_names)


@pytest.mark.parametrize("name", READERS)
def test_our_own_runtime_opens_it_too(name: str, given: Path, whole_way: WholeWay) -> None:
    picture = open_dataset(whole_way.data, "test")[0].image
    with Detector.load(given / name) as handed, Detector.load(whole_way.bundles["host-onnx"]) as ours:
        found, wanted = handed.detect(picture), ours.detect(picture)
    assert len(wanted) > 0
    np.testing.assert_array_equal(found.class_ids, wanted.class_ids)
    assert (
        np.abs(found.boxes_xyxy - wanted.boxes_xyxy) <= 1.0
    ).mean() >= 0.9  # two int8 graphs may round a value apart
    assert (box_iou(found.boxes_xyxy, wanted.boxes_xyxy).diagonal() > 0.9).all()
    np.testing.assert_allclose(found.scores, wanted.scores, atol=0.05)  # float16 in one of them


@pytest.mark.parametrize("name", READERS)
def test_versions_of_the_file_are_what_the_program_takes(name: str, given: Path) -> None:
    model = onnx.load(given / name / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert max(entry.version for entry in model.opset_import) <= MOST_OPSET
    assert model.ir_version <= MOST_IR


def test_frigate_gets_one_output_of_all_scores_and_keeps_its_limits(given: Path, whole_way: WholeWay) -> None:
    model = onnx.load(given / "frigate" / "model.onnx")
    (entry,), (output,) = model.graph.input, model.graph.output
    assert sizes(entry) == [1, 3, 128, 128] and entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert sizes(output) == [1, 4 + 3, 3 * (16 * 16 + 8 * 8 + 4 * 4)]
    reader = FrigateReads(given / "frigate")
    assert reader.config["objects"]["track"] == list(reader.labels.values())
    for sample in open_dataset(whole_way.data, "test"):
        found = reader.detect(sample.image)
        assert len(found) <= 20 and (found.scores > 0.4).all()


def test_openvino_gives_frigate_the_same_rows(given: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="Frigate's other detector is openvino")
    path = given / "frigate" / "model.onnx"
    images = np.random.default_rng(0).uniform(0, 1, (1, 3, 128, 128)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": images})
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(path, "CPU", precise)(images)[0]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found[:, 4:], wanted[:, 4:], atol=0.05)  # kernels round activations apart now and then


def test_deepstream_takes_any_number_of_frames(given: Path, whole_way: WholeWay) -> None:
    model = onnx.load(given / "deepstream" / "model.onnx")
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert sizes(model.graph.output[0])[1:] == [3 * (16 * 16 + 8 * 8 + 4 * 4), 6]
    reader = DeepStreamReads(given / "deepstream")
    images = [sample.image for _, sample in zip(range(3), open_dataset(whole_way.data, "test"), strict=False)]
    for together, image in zip(reader.detect_batch(images), images, strict=True):
        alone = reader.detect(image)
        assert len(alone) > 0
        np.testing.assert_allclose(together.boxes_xyxy, alone.boxes_xyxy, atol=0.5)
        np.testing.assert_array_equal(together.class_ids, alone.class_ids)


def test_tensorrt_builds_the_plan_that_deepstream_loads(given: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the compiler that needs no GPU is tensorrt_rtx")
    options = Options(package="tensorrt_rtx", max_batch=4)
    parsed = load_tensorrt("tensorrt_rtx").parse((given / "deepstream" / "model.onnx").read_bytes(), options)
    plan, _ = parsed.compile(options, "int8", capability="8.6")
    assert len(plan) > 100_000
    command = (given / "deepstream" / "config_infer_primary.txt").read_text()
    assert "# trtexec --onnx=model.onnx --saveEngine=model.plan --stronglyTyped" in command


def test_mean_and_std_go_into_the_graph(whole_way: WholeWay, tmp_path: Path) -> None:
    """The same weights under another normalisation: what leaves the graph is that of the network's own input."""
    mean, std = (0.4, 0.5, 0.3), (0.2, 0.25, 1.0)
    source = with_spec(whole_way.quantized, tmp_path / "source", lambda spec: with_input(spec, mean=mean, std=std))
    verbs.deploy(source, "frigate", tmp_path / "frigate", precision="fp32")
    verbs.deploy(source, "host-onnx", tmp_path / "ours.eyb", precision="fp32")
    picture = open_dataset(whole_way.data, "test")[0].image
    with Detector.load(tmp_path / "frigate") as handed, Detector.load(tmp_path / "ours.eyb") as ours:
        assert handed.spec.input.mean == (0, 0, 0) and handed.spec.input.std == (1, 1, 1)
        found, wanted = handed.detect(picture), ours.detect(picture)
    assert len(wanted) > 0
    np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=1e-2)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def test_origin_and_licence_stand_in_the_settings_and_in_the_manifest(whole_way: WholeWay, tmp_path: Path) -> None:
    origin = {"source": "the authors", "licence": "GPL-3.0-only", "file": "official.pt", "sha256": "0" * 64}
    source = with_spec(whole_way.quantized, tmp_path / "source", lambda spec: {**spec, "origin": origin})
    for name, file in (("frigate", "frigate.yml"), ("deepstream", "config_infer_primary.txt")):
        verbs.deploy(source, name, tmp_path / name)
        assert "official.pt of the authors, GPL-3.0-only" in (tmp_path / name / file).read_text()
        with open_bundle(tmp_path / name) as bundle:
            assert bundle.manifest.model.origin is not None
            assert bundle.manifest.source["checkpoint"]


def test_settings_are_for_people_to_edit_and_the_model_is_not(given: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(given / "frigate", tmp_path / "frigate"))
    (folder / "frigate.yml").write_text("# mine\n")
    with open_bundle(folder) as bundle:
        assert bundle.manifest.artefact.files == {"onnx": "model.onnx"}


def test_a_folder_with_something_else_in_it_is_left_alone(whole_way: WholeWay, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.plan").write_bytes(b"took an hour")
    with pytest.raises(OutputError, match=r"model\.plan, which would be lost"):
        verbs.deploy(whole_way.quantized, "deepstream", tmp_path / "out")


@pytest.mark.parametrize(
    ("program", "change", "message"),
    [
        ("frigate", lambda spec: with_input(spec, image_hw=(128, 160)), "Frigate gives square pictures"),
        ("frigate", lambda spec: {**spec, "class_names": ["a", "b\nc", "d"]}, "cannot be written for frigate"),
        ("frigate", lambda spec: {**spec, "class_names": [f"c{i}" for i in range(2000)]}, "one for the other"),
        ("deepstream", lambda spec: {**spec, "class_names": ["a", "b;c", "d"]}, "semicolon"),
    ],
)
def test_what_a_program_would_misread_is_refused(
    program: str, change: Callable[[dict[str, Any]], dict[str, Any]], message: str, whole_way: WholeWay, tmp_path: Path
) -> None:
    source = with_spec(whole_way.quantized, tmp_path / "source", change)
    with pytest.raises(UsageError, match=message):
        verbs.deploy(source, program, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_decoded_already_is_refused(whole_way: WholeWay, tmp_path: Path) -> None:
    spec = load_json(whole_way.quantized / "model.json", ModelRecord).model
    spec = msgspec.structs.replace(spec, decode=GraphDecode(strides=(8,), candidates=10))
    for name in handoffs.list_programs():
        with pytest.raises(BackendError, match="inside its graph already"):
            handoffs.hand_off(
                whole_way.quantized / "model.onnx", spec, None, load_target(name), tmp_path, precision="fp32"
            )


def test_an_unknown_program_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'title = "Mine"\nengine = "onnxruntime"\nprogram = "frigates"\nprecisions = ["fp32"]\n'
    )
    with pytest.raises(UnknownNameError, match="Did you mean 'frigate'"):
        handoffs.load_program(load_target(str(tmp_path / "mine.toml")).program)


def test_label_maps_have_numbers_so_that_a_name_may_begin_with_one(tmp_path: Path) -> None:
    spec = msgspec.convert(
        {
            "name": "n",
            "activation": "relu",
            "class_names": ["3 wheeler", "car"],
            "input": {"image_hw": [32, 32]},
            "decode": {"kind": "dfl", "strides": [8], "bins": 4},
        },
        ModelSpec,
    )
    path = tmp_path / "labelmap.txt"
    path.write_text(handoffs.load_program("frigate").make_labels(spec))
    assert read_labels(path) == {0: "3 wheeler", 1: "car"}


def sizes(entry: onnx.ValueInfoProto) -> list[int]:
    return [axis.dim_value for axis in entry.type.tensor_type.shape.dim]


def with_input(spec: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {**spec, "input": {**spec["input"], **changes}}


def with_spec(source: Path, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a quantized folder that says something else of its model."""
    shutil.copytree(source, folder)
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**record, "model": change(record["model"])}))
    return folder
