"""Official weights become a checkpoint without training, and go the way of one that was trained here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import official_tensors, write_official
from typer.testing import CliRunner, Result

from edgeyolo import models, verbs
from edgeyolo.backends import Session, open_artefact
from edgeyolo.bundle import open_bundle
from edgeyolo.cli.app import make_app
from edgeyolo.data.drawn import draw_dataset, draw_picture
from edgeyolo.geometry.network_input import make_batch
from edgeyolo.heads import head_of
from edgeyolo.runtime import Detector
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import GateError, OutputError, UsageError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.torch_session import TorchSession

FILES = {
    "yolov5n": ("yolov5n.pt", "AGPL-3.0"),
    "yolov6n": ("yolov6n.pt", "GPL-3.0"),
    "yolov7-tiny": ("yolov7-tiny.pt", "GPL-3.0"),
    "yolov8n": ("yolov8n.pt", "AGPL-3.0"),
    "yolox-nano": ("yolox_nano.pth", "Apache-2.0"),
    "damo-ns": ("damoyolo_nano_small.pth", "Apache-2.0"),
    "ppyoloe-s": ("ppyoloe_crn_s_300e_coco.pdparams", "Apache-2.0"),
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", FILES)
def test_it_is_known_by_its_tensors_and_gives_its_own_maps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, licence = FILES[name]
    write_official(name, tmp_path / file, monkeypatch)
    done = run("import", tmp_path / file, "--out", tmp_path / "run", "--image-size", 64, "--json")
    assert done.exit_code == 0, done.output
    spec = json.loads(done.stdout)["model"]
    assert spec["name"] == name and spec["input"]["image_hw"] == [64, 64]
    assert spec["class_names"][0] == "person" and len(spec["class_names"]) == 80
    assert spec["origin"]["licence"] == licence and spec["origin"]["file"] == file
    loaded = load_checkpoint(tmp_path / "run")
    expected = models.load_pretrained(name, tmp_path / file)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for found, wanted in zip(loaded.model(images), expected(images), strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    "name", [name if name == "yolox-nano" else pytest.param(name, marks=pytest.mark.slow) for name in FILES]
)
def test_imported_weights_are_quantized_and_deployed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two engines; in float every cell's box and score are the network's own, and int8 detects."""
    draw_dataset(tmp_path / "data", {"train": 4, "val": 2}, image_hw=(64, 64))
    file, licence = FILES[name]
    write_official(name, tmp_path / file, monkeypatch, is_fresh=True)
    verbs.import_weights(tmp_path / file, tmp_path / "run", image_size=64)
    options = verbs.QuantizeOptions(report=False, evaluate=False, doctor=False)  # of random weights little is alive
    verbs.quantize(tmp_path / "run", tmp_path / "data", tmp_path / "int8", recipe="int8-max", options=options)
    loaded = load_checkpoint(tmp_path / "run")
    spec: ModelSpec = loaded.record.model
    picture = draw_picture(np.random.default_rng(0), (64, 64)).image
    wanted = every_box(TorchSession(loaded.model), spec, picture)
    for target in ("host-onnx", "host-ncnn"):
        verbs.deploy(tmp_path / "run", target, tmp_path / "float.eyb", precision="fp32")
        with open_bundle(tmp_path / "float.eyb") as opened:
            session = open_artefact(opened.folder, opened.manifest.artefact, opened.manifest.model, threads=1)
            found = every_box(session, opened.manifest.model, picture)
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-4 * 64)
        np.testing.assert_allclose(found[1], wanted[1], atol=1e-4)
        bundle = verbs.deploy(tmp_path / "int8", target, tmp_path / f"{target}.eyb", precision="int8").bundle
        assert Detector.load(bundle).detect(picture) is not None
        shown = run("inspect", bundle)
        assert licence in shown.output and file in shown.output


def every_box(session: Session, spec: ModelSpec, picture: Image) -> tuple[np.ndarray, np.ndarray]:
    """Of all cells, before suppression, which random weights leave to chance."""
    batch, _ = make_batch([picture], spec.input)
    maps = [map_[0] for map_ in session.run(batch)]
    boxes_xyxy, scores, _ = head_of(spec.decode).decode(maps, score_threshold=0.0, multi_label=False)
    return boxes_xyxy, scores


def test_its_licence_goes_where_the_weights_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into what is trained on from them too, and a gate finds it there."""
    draw_dataset(tmp_path / "data", {"train": 4, "val": 2}, image_hw=(64, 64))
    for name in ("yolov8n", "yolox-nano"):
        write_official(name, tmp_path / FILES[name][0], monkeypatch, is_fresh=True)
        verbs.import_weights(tmp_path / FILES[name][0], tmp_path / name, image_size=64)
    assert verbs.check_licence(tmp_path / "yolox-nano") is None
    with pytest.raises(GateError, match=r"yolov8n\.pt.*AGPL-3\.0"):
        verbs.check_licence(tmp_path / "yolov8n")
    refused = run(
        "deploy", tmp_path / "yolov8n", "--target", "host-onnx", "--precision", "fp32", "--out", tmp_path / "x.eyb",
        "--require-licence", "permissive",
    )  # fmt: skip
    assert refused.exit_code == 4 and "AGPL-3.0" in refused.output and not (tmp_path / "x.eyb").exists()
    done = run(
        "train", "--model", "yolov8n", "--data", tmp_path / "data", "--out", tmp_path / "tuned", "--weights",
        tmp_path / "yolov8n", "--epochs", 1, "--image-size", 64, "--batch", 2, "--no-report", "--set", "workers=0",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    origin = load_checkpoint(tmp_path / "tuned").record.model.origin
    assert origin is not None and origin.licence == "AGPL-3.0"


def test_what_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "yolox_nano.pth"
    tensors = write_official("yolox-nano", file, monkeypatch)
    other = run("import", file, "--model", "yolox-tiny", "--out", tmp_path / "run")
    assert other.exit_code == 1 and "does not fit yolox-tiny" in other.output
    size = run("import", file, "--out", tmp_path / "run", "--image-size", 100)
    assert size.exit_code == 2 and "96" in size.output
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    names = run("import", file, "--out", tmp_path / "run", "--names", tmp_path / "names.txt")
    assert names.exit_code == 2 and "2 different names for 80" in names.output
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no names"):
        few = {key: value[:3] if "cls_preds" in key else value for key, value in tensors.items()}
        torch.save({"model": few}, tmp_path / "few.pth")
        verbs.import_weights(tmp_path / "few.pth", tmp_path / "run")
    torch.save({"model": {"a.weight": torch.zeros(3)}}, tmp_path / "strange.pth")
    strange = run("import", tmp_path / "strange.pth", "--out", tmp_path / "run")
    assert strange.exit_code == 1 and "no model that is known" in strange.output
    verbs.import_weights(file, tmp_path / "run")
    with pytest.raises(OutputError, match="already"):
        verbs.import_weights(file, tmp_path / "run")


def test_official_names_are_unlike_one_another() -> None:
    """A guess has one answer: sizes of a family differ in shapes, families in names."""
    kinds = {name: {key: tuple(value.shape) for key, value in official_tensors(name).items()} for name in FILES}
    assert len({str(sorted(kind.items())) for kind in kinds.values()}) == len(FILES)


@pytest.mark.parametrize("name", ["yolox-nano", pytest.param("yolov7-tiny", marks=pytest.mark.slow)])
def test_a_file_is_shown_before_it_is_imported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, with a tensor gone and a strange one, and of no model at all."""
    file, licence = FILES[name]
    tensors = write_official(name, tmp_path / file, monkeypatch)
    done = run("inspect", tmp_path / file, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["model"] == name and found["fits"] and found["num_classes"] == 80 and not found["misfits"]
    assert found["tensors"] == len(tensors) and found["parameters"] == sum(t.numel() for t in tensors.values())
    assert found["origin"]["licence"] == licence and licence in done.stderr
    first = next(iter(tensors))
    torch.save({"model": {"strange": torch.zeros(1)} | {k: v for k, v in tensors.items() if k != first}},
               tmp_path / "altered.pt")  # fmt: skip
    shown = run("inspect", tmp_path / "altered.pt", "--json")
    altered = json.loads(shown.stdout)
    assert altered["model"] == name and not altered["fits"]
    assert altered["misfits"] == {"missing": [1, [first]], "unknown": [1, ["strange"]]}
    assert "altered or not whole" in shown.stderr
    torch.save({"model": {"a.weight": torch.zeros(3)}}, tmp_path / "strange.pth")
    assert json.loads(run("inspect", tmp_path / "strange.pth", "--json").stdout)["model"] == ""
    verbs.import_weights(tmp_path / file, tmp_path / "run", image_size=64)
    mine = run("inspect", tmp_path / "run", "--json")
    assert json.loads(mine.stdout)["model"]["name"] == name and licence in mine.stderr
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    assert run("inspect", tmp_path / "broken.pt").exit_code == 1
