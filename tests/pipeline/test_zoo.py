"""Models of every shape go the whole way with random weights: fold, quantize, export, build, run.

Random networks are kept in range by batch statistics of the pictures they are run on. That does not hold for the deepest
variants, whose float maps then differ between engines by more than they should: they are not here. What int8 does to
random weights says nothing, so that there only shapes and finiteness are held; the float artefacts must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeyolo import models
from edgeyolo.backends import Session, build, open_artefact
from edgeyolo.export import export_model
from edgeyolo.geometry.letterbox import make_letterbox
from edgeyolo.geometry.nms import class_wise_nms
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.session import TorchSession
from edgeyolo.quantization import quantize
from edgeyolo.runtime import Detector
from edgeyolo.runtime.decode import map_shapes
from edgeyolo.spec.model import DflDecode, ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.spec.target import Precision, load_target

TARGETS = ("host-cpu", "host-onnx")
CLASS_NAMES = ("red", "green", "blue")
FLOAT_TOLERANCE = 1e-3  # of the largest magnitude of a map
NAMES = ("yolov7-nano", "yolov7-tiny", "yolov7", "yolov7-w6", "ppyoloe-s", "ppyoloe-plus-s")


@dataclass(frozen=True)
class Exported:
    """A model of random weights that was quantized and exported to `folder`; its inputs and float maps."""

    spec: ModelSpec
    folder: Path
    pictures: np.ndarray
    maps: list[np.ndarray]

    def open(self, target_name: str, precision: Precision) -> Session:
        """The artefact for a target, built and opened."""
        target, out = load_target(target_name), self.folder.parent / f"{target_name}-{precision}"
        qparams = load_qparams(self.folder / "qparams.json")
        artefact = build(self.folder / "model.onnx", qparams, target, out, precision=precision)
        return open_artefact(
            out, artefact, output_count=self.spec.output_count, image_hw=self.spec.input.image_hw, threads=1
        )


def make_model(name: str) -> tuple[nn.Module, ModelSpec, Tensor]:
    """A model whose batch statistics are those of two random pictures, its description, and the pictures."""
    torch.manual_seed(0)
    model = models.create(name, len(CLASS_NAMES))
    side = 128
    pictures = torch.rand(2, 3, side, side)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.Conv2d) and not module.weight.any():  # distances begin equal everywhere
            nn.init.normal_(module.weight, std=0.05)
    with torch.no_grad():
        model.train()(pictures)
    spec = ModelSpec(
        name=name,
        activation=model.config.activation,
        class_names=CLASS_NAMES,
        input=model.make_input_spec((side, side)),
        decode=model.decode,
    )
    return model.eval(), spec, pictures


def export_quantized(name: str, folder: Path) -> Exported:
    model, spec, pictures = make_model(name)
    hashes = {str(i): "0" * 64 for i in range(len(pictures))}
    quantized = quantize(model, [pictures], load_recipe("int8-max"), recipe_name="int8-max", picture_hashes=hashes)
    export_model(quantized, spec, folder)
    picture = pictures[:1].numpy()
    return Exported(spec, folder, picture, TorchSession(fold_model(model)).run(picture))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that is gone after the test: the large models would fill gigabytes together."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_runs_on_every_host_engine(name: str, place: Path) -> None:
    exported = export_quantized(name, place / "exported")
    shapes = [(1, *s) for s in map_shapes(exported.spec.decode, len(CLASS_NAMES), exported.spec.input.image_hw)]
    for target in TARGETS:
        for precision in ("fp32", "int8"):
            session = exported.open(target, precision)
            found = session.run(exported.pictures)
            session.close()
            assert [map_.shape for map_ in found] == shapes
            assert all(np.isfinite(map_).all() for map_ in found)
            if precision == "fp32":
                for ours, expected in zip(found, exported.maps, strict=True):
                    np.testing.assert_allclose(ours, expected, rtol=0, atol=FLOAT_TOLERANCE * np.abs(expected).max())
            else:
                assert any((ours != wanted).any() for ours, wanted in zip(found, exported.maps, strict=True))


def decode_in_torch(maps: list[Tensor], decode: DflDecode) -> tuple[Tensor, Tensor]:
    """Boxes (A, 4) in input pixels and scores (A, K) of one picture, straight from what `DflDecode` says."""
    boxes, scores = [], []
    for stride, classes, distances in zip(decode.strides, maps[0::2], maps[1::2], strict=True):
        height, width = classes.shape[2:]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        sides = distances[0].view(4, decode.bins, height, width).softmax(dim=1)
        left, top, right, bottom = (sides * torch.arange(decode.bins).view(1, -1, 1, 1)).sum(dim=1)
        boxes.append(torch.stack([x - left, y - top, x + right, y + bottom], dim=-1).view(-1, 4) * stride)
        scores.append(classes[0].sigmoid().flatten(1).T)
    return torch.cat(boxes), torch.cat(scores)


@pytest.mark.parametrize("target", TARGETS)
def test_ppyoloe_detects_what_a_torch_decode_finds(target: str, place: Path) -> None:
    """The Detector on a float artefact against the model in torch; the same letterbox and NMS behind both."""
    exported = export_quantized("ppyoloe-s", place / "exported")
    spec, decode = exported.spec, exported.spec.decode
    assert isinstance(decode, DflDecode)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    letterbox = make_letterbox((48, 64), spec.input.image_hw)
    canvas = np.full((64, 64, 3), 114, np.uint8)
    canvas[8:56] = image
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.input.mean, spec.input.std))
    pixels = torch.from_numpy(canvas[..., ::-1].copy()).permute(2, 0, 1) / 255
    model, _, _ = make_model("ppyoloe-s")
    with torch.no_grad():
        boxes_xyxy, scores = decode_in_torch(model(((pixels - mean) / std)[None]), decode)
    best, labels = scores.max(dim=1)
    threshold = float(best.sort(descending=True).values[20:22].mean())
    strong = best >= threshold
    kept = class_wise_nms(
        boxes_xyxy[strong].numpy(), best[strong].numpy(), labels[strong].numpy(), iou_threshold=0.5, max_detections=50
    )
    session = exported.open(target, "fp32")
    with Detector(session, spec, score_threshold=threshold, iou_threshold=0.5, max_detections=50) as detector:
        detections = detector.detect(image)
    assert len(detections) == len(kept) > 3
    np.testing.assert_array_equal(detections.class_ids, labels[strong][kept].numpy())
    np.testing.assert_allclose(detections.scores, best[strong][kept].numpy(), atol=1e-4)
    np.testing.assert_allclose(
        detections.boxes_xyxy, letterbox.invert(boxes_xyxy[strong][kept].numpy()), atol=0.02, rtol=0
    )
