"""darknet's families and PP-YOLO the whole way: trained here, or brought along as a cfg and its weights."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import darknet_by_hand as by_hand
import numpy as np
import pytest
import torch
from thin import narrow
from typer.testing import CliRunner, Result

from edgeyolo import models, verbs
from edgeyolo.bundle import open_bundle
from edgeyolo.cli.app import make_app
from edgeyolo.data.drawn import draw_dataset, draw_picture
from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.training import AugmentConfig, TrainConfig
from edgeyolo.training.checkpoint import load_checkpoint

ENGINES = ("host-onnx", "host-ncnn", "host-openvino", "raspberry-pi-5")
SIDE = 64
SMALL = ("yolov1-nano", "yolov2-nano", "yolov3-tiny", "yolov4-tiny", "ppyolo-tiny")
LARGE = ("yolov4-csp", "yolor-csp")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw_dataset(folder, {"train": 8, "val": 2}, image_hw=(SIDE, SIDE))
    return folder


def deploy_everywhere(run_folder: Path, data: Path, folder: Path) -> None:
    """Quantized; every engine detects with it, whatever a network of so little training sees."""
    options = verbs.QuantizeOptions(report=False, evaluate=False, doctor=False)
    verbs.quantize(run_folder, data, folder / "int8", recipe="int8-max", options=options)
    picture = draw_picture(np.random.default_rng(0), (SIDE, SIDE)).image
    for target in ENGINES:
        verbs.deploy(folder / "int8", target, folder / f"{target}.eyb")
        with Detector.load(folder / f"{target}.eyb", score_threshold=0.0) as detector:
            found = detector.detect(picture)
        assert len(found) and np.isfinite(found.boxes_xyxy).all() and (found.scores >= 0).all()


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The large ones have an eighth of their channels, under the same names."""
    for name in LARGE:
        family = importlib.import_module(f"{models.__name__}.{models.family_of(name)}")
        monkeypatch.setitem(family.VARIANTS, name, narrow(family.VARIANTS[name]))


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.usefixtures("thin")
def test_smallest_of_the_large_families(name: str, data: Path, tmp_path: Path) -> None:
    train_and_deploy(name, data, tmp_path)


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_two_epochs_and_four_engines(name: str, data: Path, tmp_path: Path) -> None:
    train_and_deploy(name, data, tmp_path)


def train_and_deploy(name: str, data: Path, tmp_path: Path) -> None:
    augment = AugmentConfig(mosaic=0, mixup=0)
    config = TrainConfig(
        model=name, epochs=2, image_size=SIDE, batch=4, workers=0, device="cpu", evaluate_every=2, augment=augment
    )
    result = verbs.train(config, data, tmp_path / "run", report=False)
    assert [row.epoch for row in result.history] == [1, 2]
    deploy_everywhere(tmp_path / "run", data, tmp_path)


def own_cfg() -> str:
    """A user's own: v4-tiny's idea with few channels, spatial attention and Mish, three classes."""
    text = by_hand.net(SIDE) + by_hand.conv(16, 3, stride=2, act="mish") + by_hand.conv(32, 3, stride=2)
    text += by_hand.route(-1, more="groups=2\ngroup_id=1\n") + by_hand.conv(32, 3, act="mish")
    text += "[convolutional]\nfilters=32\nsize=1\nstride=1\npad=1\nactivation=logistic\n[sam]\nfrom=-2\n"
    text += (
        by_hand.route(-1, -4) + "[maxpool]\nsize=2\nstride=2\n" + by_hand.conv(48, 3) + by_hand.conv(32, 3, stride=2)
    )
    text += "[maxpool]\nsize=2\nstride=1\n" + by_hand.output("3,4,5", 3) + by_hand.route(-4) + by_hand.conv(48, 3)
    return text + "[upsample]\nstride=2\n" + by_hand.route(-1, 8) + by_hand.conv(32, 1) + by_hand.output("0,1,2", 3)


def test_a_cfg_of_ones_own_and_its_weights(data: Path, tmp_path: Path) -> None:
    (tmp_path / "blood.cfg").write_text(own_cfg())
    by_hand.write_weights(own_cfg(), tmp_path / "blood_last.weights")
    (tmp_path / "blood.names").write_text("RBC\nWBC\nPlatelets\n")
    files = ("--cfg", tmp_path / "blood.cfg", "--names", tmp_path / "blood.names")
    done = run("import", tmp_path / "blood_last.weights", *files, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    spec = json.loads(done.stdout)["model"]
    assert (spec["name"], spec["input"]["image_hw"]) == ("blood", [SIDE, SIDE])
    assert spec["class_names"] == ["RBC", "WBC", "Platelets"] and spec["origin"]["licence"] == "NOASSERTION"
    loaded = load_checkpoint(tmp_path / "run")
    expected = models.load_darknet(tmp_path / "blood.cfg", tmp_path / "blood_last.weights").network
    images = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        for found, wanted in zip(loaded.model(images), expected(images), strict=True):
            assert torch.equal(found, wanted)
    deploy_everywhere(tmp_path / "run", data, tmp_path)
    with open_bundle(tmp_path / "host-onnx.eyb") as bundle:
        assert bundle.manifest.model.structure.startswith("[net]\nwidth=64")


def test_a_cfg_is_for_darknet_and_says_the_model_itself(tmp_path: Path) -> None:
    for file, model, message in (("a.pt", None, "for .weights"), ("a.weights", "yolov4-tiny", "says which model")):
        with pytest.raises(UsageError, match=message):
            verbs.import_weights(tmp_path / file, tmp_path / "run", model=model, cfg=tmp_path / "a.cfg")
