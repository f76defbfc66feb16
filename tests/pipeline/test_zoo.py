"""Every model of the registry goes the whole way with random weights: fold, quantize, export, build, run.

Deep random networks blow up the smallest difference a thousandfold and more. Here every channel is scaled to a mean
square of one on the pictures it is run on and then moved by a random bias, which keeps a difference about as large as
it was, so that engines can be compared.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest
import torch
from thin import SMALL, list_networks, make_network
from torch import Tensor, nn

from edgeyolo.backends import Session, build, open_artefact
from edgeyolo.backends.rknn.toolkit import FOLDER_VARIABLE, INSTALL, toolkit_folder
from edgeyolo.export import export_model
from edgeyolo.geometry.letterbox import make_letterbox
from edgeyolo.geometry.nms import class_wise_nms
from edgeyolo.heads import head_of
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization import quantize
from edgeyolo.runtime import Detector
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import DflDecode, ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.spec.target import Precision, load_target
from edgeyolo.training.torch_session import TorchSession

TARGETS = ("host-ncnn", "host-onnx")
OTHERS = ("host-openvino", "rockchip-rk3588-npu")
TOOLKIT = toolkit_folder()  # Rockchip's, before a test run gets a cache of its own
CLASS_NAMES = ("red", "green", "blue")
FLOAT_TOLERANCE = 1e-3  # of the largest magnitude of a map
INT8_TOLERANCE = 0.2  # of the standard deviation of a map, root mean square
FEW = 4  # numbers of a map whose standard deviation says nothing
SENSITIVE = "yolov6"  # RepVGG's folded kernels span so wide a range that int8 keeps little of a random network
NOISE = 0.5  # another rounding in every layer of an engine, or few numbers to average rounding over
SEVERAL = ("yolov7-nano", "yolov5s-tr, thin")  # the second reshapes its maps, for attention
NOISY = {"yolox-nano": NOISE}  # a depthwise convolution has nine numbers to average rounding over


@dataclass(frozen=True)
class Exported:
    """A random model that was quantized and exported to `folder`; a picture, and its maps in training form."""

    spec: ModelSpec
    folder: Path
    pictures: np.ndarray
    maps: list[np.ndarray]

    def open(self, target_name: str, precision: Precision) -> Session:
        """The artefact for a target, built and opened."""
        target, out = load_target(target_name), self.folder.parent / f"{target_name}-{precision}"
        qparams = load_qparams(self.folder / "qparams.json")
        artefact = build(self.folder / "model.onnx", self.spec, qparams, target, out, precision=precision)
        return open_artefact(out, artefact, self.spec, threads=1)


def scale_channels(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Before a batch norm runs: make it divide each channel by its root mean square."""
    module.running_mean.zero_()
    module.running_var.copy_(inputs[0].square().mean((0, 2, 3)).clamp_min(1e-4))


def make_model(name: str, strides: tuple[int, int] = (2, 2)) -> tuple[nn.Module, ModelSpec, Tensor]:
    """A model with seeded random weights, well conditioned; its description, and four pictures.

    Args:
        strides: rows and columns of its coarsest level.
    """
    torch.manual_seed(0)
    model = make_network(name, len(CLASS_NAMES)).eval()
    rows, columns = strides
    image_hw = (rows * model.side_multiple, columns * model.side_multiple)
    input_spec = model.make_input_spec(image_hw)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (input_spec.mean, input_spec.std))
    smooth = nn.functional.interpolate(torch.rand(2, 3, 4, 4), size=image_hw, mode="bilinear")
    pictures = (torch.cat((smooth, torch.rand(2, 3, *image_hw))) - mean) / std  # export compares on noise
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=1.5)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():  # distances begin equal everywhere
            nn.init.normal_(module.weight, std=0.05)
    hooks = [module.register_forward_pre_hook(scale_channels) for module in norms]
    with torch.no_grad():
        model(pictures)
    for hook in hooks:
        hook.remove()
    spec = ModelSpec(
        name=model.config.name,
        activation=model.config.activation,
        class_names=CLASS_NAMES,
        input=input_spec,
        decode=model.decode,
    )
    return model, spec, pictures


def export_quantized(name: str, folder: Path) -> Exported:
    model, spec, pictures = make_model(name)
    picture = pictures[:1].numpy()
    maps = TorchSession(model).run(picture)
    hashes = {str(i): "0" * 64 for i in range(len(pictures))}
    quantized = quantize(
        model, pictures.split(2), load_recipe("int8-max"), recipe_name="int8-max", picture_hashes=hashes
    )
    del model
    export_model(quantized, spec, folder)
    return Exported(spec, folder, picture, maps)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that is gone after the test: the large models would fill gigabytes together."""
    with TemporaryDirectory() as folder:
        yield Path(folder)
    gc.collect()


@pytest.mark.parametrize("name", list_networks())
def test_every_model_runs_on_every_host_engine(name: str, place: Path) -> None:
    exported = export_quantized(name, place / "exported")
    gc.collect()  # a large model is gigabytes by now
    shapes = [(1, *s) for s in head_of(exported.spec.decode).map_shapes(len(CLASS_NAMES), exported.spec.input.image_hw)]
    for target in TARGETS:
        if "-dcn" in name and target != "host-onnx":
            with pytest.raises(BackendError, match=r"ncnn has no DeformConv.*ppyolo-r50 for ppyolo-r50-dcn"):
                exported.open(target, "fp32")
            continue
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
                for ours, wanted in zip(found, exported.maps, strict=True):
                    if wanted.size <= FEW or name.startswith(SENSITIVE):
                        continue
                    assert np.sqrt(np.mean((ours - wanted) ** 2)) < NOISY.get(name, INT8_TOLERANCE) * wanted.std()


@pytest.mark.parametrize("name", SEVERAL)
def test_every_graph_takes_several_pictures(name: str, place: Path) -> None:
    """Not square, with a coarsest level of one row."""
    model, spec, pictures = make_model(name, (1, 3))
    export_model(fold_model(model), spec, place / "exported")
    spec = msgspec.structs.replace(spec, input=msgspec.structs.replace(spec.input, batch=(1, 4)))
    path, target = place / "exported" / "model.onnx", load_target("host-onnx")
    artefact = build(path, spec, None, target, place / "four", precision="fp32")
    session = open_artefact(place / "four", artefact, spec, threads=1)
    with torch.no_grad():
        wanted = [map_.numpy() for map_ in model(pictures)]
    for count in (4, 3):
        for ours, expected in zip(session.run(pictures[:count].numpy()), wanted, strict=True):
            atol = FLOAT_TOLERANCE * np.abs(expected).max()
            np.testing.assert_allclose(ours, expected[:count], rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("name", SMALL)
def test_small_models_run_on_the_other_engines(
    name: str, target: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In int8, as ONNX Runtime does; Rockchip's in the simulator of its vendor."""
    if target.startswith("rockchip"):
        if not (TOOLKIT / "rknn").is_dir():
            pytest.skip(f"Rockchip's toolkit is not in {TOOLKIT}: {INSTALL}")
        monkeypatch.setenv(FOLDER_VARIABLE, str(TOOLKIT))
    exported = export_quantized(name, place / "exported")
    sessions = [exported.open(engine, "int8") for engine in (target, "host-onnx")]
    found, expected = (session.run(exported.pictures) for session in sessions)
    for session in sessions:
        session.close()
    for ours, wanted in zip(found, expected, strict=True):
        assert ours.shape == wanted.shape and np.isfinite(ours).all()
        if wanted.size > FEW and not name.startswith(SENSITIVE):
            assert np.sqrt(np.mean((ours - wanted) ** 2)) < NOISE * wanted.std()


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
    thresholds = Thresholds(score_threshold=threshold, iou_threshold=0.5, max_detections=50)
    with Detector(session, spec, thresholds) as detector:
        detections = detector.detect(image)
    assert len(detections) == len(kept) > 3
    np.testing.assert_array_equal(detections.class_ids, labels[strong][kept].numpy())
    np.testing.assert_allclose(detections.scores, best[strong][kept].numpy(), atol=1e-4)
    np.testing.assert_allclose(
        detections.boxes_xyxy, letterbox.invert(boxes_xyxy[strong][kept].numpy()), atol=0.02, rtol=0
    )
