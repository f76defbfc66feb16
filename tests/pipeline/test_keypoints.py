"""The whole way of a network of joints, in small: train, quantize, deploy, measure, and detect beside a detector."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import make_once
from whole_way import WholeWay

from edgeyolo import verbs
from edgeyolo.bundle import read_manifest
from edgeyolo.data.drawn_figures import draw_figures
from edgeyolo.data.keypoints import open_people
from edgeyolo.models import create
from edgeyolo.runtime import Detector, PoseEstimator
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.joints import COCO_JOINTS, COCO_SKELETON
from edgeyolo.spec.model import HeatmapDecode
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import load_checkpoint

TARGETS = ("host-ncnn", "host-onnx")


@dataclass(frozen=True)
class PoseWay:
    data: Path
    run: Path
    quantized: Path
    scores: dict[str, float]

    def bundle(self, target: str) -> Path:
        return self.run.parent / f"{target}.eyb"


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> PoseWay:
    folder = make_once(tmp_path_factory, "pose-way", make_way)
    scores = json.loads((folder / "scores.json").read_text())
    return PoseWay(folder / "data", folder / "run", folder / "int8", scores)


def make_way(folder: Path) -> None:
    """The network learns next to nothing; what is shown does not depend on that."""
    draw_figures(folder / "data", {"train": 6, "val": 4}, image_hw=(96, 128))
    config = TrainConfig(model="hrnet-w18-small", epochs=1, image_size="64x64", batch=4, workers=0, device="cpu")
    verbs.train(config, folder / "data", folder / "run")
    options = verbs.QuantizeOptions(report=False, doctor=False)
    result = verbs.quantize(folder / "run", folder / "data", folder / "int8", options=options)
    scores = {score.artefact: score.ap for score in result.scores}
    for target in TARGETS:
        made = verbs.deploy(folder / "int8", target, folder / f"{target}.eyb", data=folder / "data").manifest
        scores |= {score.artefact: score.ap for score in made.scores}
    (folder / "scores.json").write_text(json.dumps(scores))


def test_every_step_measures_the_same_persons(way: PoseWay) -> None:
    assert set(way.scores) == {"float torch", "fake-quant torch", "ncnn int8", "onnxruntime int8"}
    assert not (way.run / "train.html").exists()  # which is about boxes


def test_the_bundle_says_its_task_and_finds_what_the_checkpoint_does(way: PoseWay) -> None:
    manifest = read_manifest(way.bundle("host-onnx"))
    assert manifest.model.class_names == COCO_JOINTS and manifest.transfer is None
    assert isinstance(manifest.model.decode, HeatmapDecode) and manifest.model.decode.skeleton == COCO_SKELETON
    assert manifest.artefact.layers == {"int8": 58, "float": 1}
    people = open_people(way.data, "val", (64, 64))
    image, box = people.read_picture(0), people.people.boxes_xyxy[:1]
    found = []
    for target in TARGETS:
        with PoseEstimator.load(way.bundle(target), threads=1, flip_test=True) as estimator:
            found.append(estimator.estimate(image, box).keypoints)
    assert found[0].shape == (1, 17, 3)
    np.testing.assert_allclose(found[0][..., 2], found[1][..., 2], atol=0.02)


def test_a_bundle_of_joints_is_measured_in_boxes_of_a_detector(way: PoseWay, whole_way: WholeWay) -> None:
    bundle, detector = way.bundle("host-onnx"), whole_way.bundles["host-onnx"]
    score = verbs.evaluate(bundle, way.data, boxes=detector)
    assert score.artefact == "onnxruntime int8, in boxes of host-onnx.eyb"
    assert (score.images, score.boxes) == (4, len(open_people(way.data, "val", (64, 64))))
    with pytest.raises(UsageError, match="two bundles"):
        verbs.evaluate(bundle, way.data, boxes=detector, record=True)
    with pytest.raises(UsageError, match="boxes are for networks that find joints"):
        verbs.evaluate(detector, whole_way.data, boxes=detector)
    with pytest.raises(UsageError, match="joints, not boxes"):
        Detector.load(bundle)


def test_detect_finds_joints_beside_boxes(
    way: PoseWay, whole_way: WholeWay, quick_python: list[str], tmp_path: Path
) -> None:
    def detect(*arguments: object) -> subprocess.CompletedProcess[str]:
        pictures = (whole_way.bundles["host-onnx"], whole_way.data / "images" / "val")
        command = [*quick_python, "-m", "edgeyolo", "detect", *map(str, (*pictures, *arguments))]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    asked = ("--pose", way.bundle("host-onnx"), "--threads", 1, "--frames", 2, "--save", tmp_path / "drawn", "--json")
    told = json.loads(detect(*asked).stdout)["pictures"]
    assert sum(len(picture["poses"]) for picture in told) > 0
    for picture in told:
        assert [pose["box_xyxy"] for pose in picture["poses"]] == [found["box_xyxy"] for found in picture["objects"]]
        assert all(set(pose["keypoints"]) == set(COCO_JOINTS) for pose in picture["poses"])
    assert len(list((tmp_path / "drawn").iterdir())) == 2
    assert detect("--flip-test").returncode == 2


def test_tensorrt_gets_the_maps_as_they_are(way: PoseWay, tmp_path: Path) -> None:
    """Boards whose graph decodes boxes have none to decode here."""
    manifest = verbs.deploy(way.quantized, "jetson-orin-nano", tmp_path / "board.eyb").manifest
    assert manifest.artefact.graph_candidates == 0 and isinstance(manifest.model.decode, HeatmapDecode)
    with pytest.raises(UsageError, match="joints, not boxes"):
        verbs.deploy(way.quantized, "frigate", tmp_path / "frigate")


def test_official_weights_become_a_checkpoint_with_their_joints_and_licence(tmp_path: Path) -> None:
    from edgeyolo.models.hrnet import PUBLISHED

    torch.manual_seed(0)
    model = create("hrnet-w32", 17)
    names = PUBLISHED.names(model.config, {}, None)
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({names.official(name): value for name, value in state.items()}, tmp_path / "pose_hrnet_w32.pth")
    result = verbs.import_weights(tmp_path / "pose_hrnet_w32.pth", tmp_path / "w32", model="hrnet-w32")
    spec = load_checkpoint(tmp_path / "w32").record.model
    assert result.model == spec and (spec.name, spec.input.image_hw) == ("hrnet-w32", (256, 192))
    assert spec.class_names == COCO_JOINTS and spec.decode.skeleton == COCO_SKELETON
    assert spec.origin is not None and spec.origin.licence == "MIT"
