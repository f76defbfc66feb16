"""PP-YOLOE: published sizes, folding, gradients, decoding, export, and its criterion."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgeyolo import models
from edgeyolo.criteria.tal import TalCriterion, TalWeights
from edgeyolo.models.ppyoloe import VARIANTS, Network
from edgeyolo.nn.dfl import DistanceIntegral, boxes_from_distances
from edgeyolo.nn.fold import fold_model
from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.model import DflDecode

# name: trainable parameters in training form, after folding, published GFLOPs at 640
PUBLISHED = {
    "ppyoloe-s": (8_084_588, 7_918_060, 17.36),
    "ppyoloe-m": (24_134_892, 23_413_500, 49.91),
    "ppyoloe-l": (54_078_556, 52_178_012, 110.07),
    "ppyoloe-x": (102_331_484, 98_395_084, 206.59),
    "ppyoloe-plus-s": (8_084_588 + 6, 7_918_060, 17.36),
    "ppyoloe-plus-m": (24_134_892 + 12, 23_413_500, 49.91),
    "ppyoloe-plus-l": (54_078_556 + 18, 52_178_012, 110.07),
    "ppyoloe-plus-x": (102_331_484 + 24, 98_395_084, 206.59),
}


def small(name: str = "ppyoloe-plus-s", *, num_classes: int = 3, activation: str = "silu") -> Network:
    """A narrow member of the family, quick to run."""
    torch.manual_seed(0)
    return Network(dataclasses.replace(VARIANTS[name], width=0.25, num_classes=num_classes, activation=activation))


def warm(model: nn.Module, size: int = 64) -> nn.Module:
    """Statistics and weights as after some training: nothing at its initial value."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
        if "box_logits.weight" in name:
            nn.init.normal_(parameter, std=0.05, generator=generator)
        if "class_logits.weight" in name:
            nn.init.normal_(parameter, std=0.1, generator=generator)
    with torch.no_grad():
        for _ in range(4):
            model.train()(torch.rand(4, 3, size, size, generator=generator))
    return model.eval()


def targets_of(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)


TARGETS = targets_of([[0, 1, 8, 8, 40, 48], [0, 2, 30, 20, 60, 60], [1, 0, 5, 5, 61, 50]])


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_are_the_published_ones(name: str) -> None:
    training, deploy, gflops = PUBLISHED[name]
    with torch.device("meta"):
        model = models.create(name, 80)
    folded = fold_model(model)
    assert parameters(model) == training
    assert parameters(folded) == deploy
    multiply_adds = 0

    def count(conv: nn.Module, _: object, out: Tensor) -> None:
        nonlocal multiply_adds
        assert isinstance(conv, nn.Conv2d)
        multiply_adds += out.shape[2] * out.shape[3] * conv.weight.numel()

    for module in folded.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        folded(torch.empty(1, 3, 640, 640, device="meta"))
    assert 2 * multiply_adds / 1e9 == pytest.approx(gflops, rel=0.01)


@pytest.mark.parametrize("image_hw", [(64, 64), (96, 128)])
def test_maps_are_class_and_box_per_level_finest_first(image_hw: tuple[int, int]) -> None:
    model = small()
    for module in (model, fold_model(model)):
        maps = module(torch.rand(2, 3, *image_hw))
        wanted = [(2, chs, image_hw[0] // s, image_hw[1] // s) for s in (8, 16, 32) for chs in (3, 68)]
        assert [tuple(level.shape) for level in maps] == wanted


def test_starts_from_a_low_class_prior_and_even_boxes() -> None:
    model = small().eval()
    with torch.no_grad():
        maps = model(torch.rand(1, 3, 64, 64))
    for classes, boxes in zip(maps[0::2], maps[1::2], strict=True):
        assert classes.sigmoid().mean().item() == pytest.approx(0.01, rel=0.5)
        assert (boxes == 1).all()


@pytest.mark.parametrize("name", ["ppyoloe-s", "ppyoloe-plus-s"])
@pytest.mark.parametrize("activation", ["silu", "leaky_relu", "relu", "hardswish"])
def test_folding_keeps_the_function(name: str, activation: str) -> None:
    model = warm(small(name, activation=activation))
    folded = fold_model(model)
    torch.fx.symbolic_trace(folded)
    images = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        for before, after in zip(model(images), folded(images), strict=True):
            assert before.std() > 0
            assert (before - after).abs().max() < 1e-4 * (before.max() - before.min())
    kinds = {type(module) for module in folded.modules()}
    assert nn.BatchNorm2d not in kinds
    assert {"silu": nn.SiLU, "leaky_relu": nn.LeakyReLU, "relu": nn.ReLU, "hardswish": nn.Hardswish}[
        activation
    ] in kinds
    names = [path for path, module in folded.named_modules() if isinstance(module, nn.Conv2d)]
    assert {"backbone.stem.0.conv", "backbone.stage_4.blocks.0.rep.conv", "head_8.class_logits"} <= set(names)


def test_attention_is_visible_to_a_graph() -> None:
    graph = torch.fx.symbolic_trace(fold_model(small()))
    kinds = [type(graph.get_submodule(str(node.target))) for node in graph.graph.nodes if node.op == "call_module"]
    assert kinds.count(nn.AdaptiveAvgPool2d) == 4 + 3
    assert kinds.count(nn.Hardsigmoid) == 4
    assert kinds.count(nn.Sigmoid) == 6


def test_a_wrong_name_class_count_or_size_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="ppyoloe-s"):
        models.create("ppyoloe-ss", 80)
    with pytest.raises(UsageError):
        models.create("ppyoloe-s", 0)
    with pytest.raises(UsageError):
        Network(dataclasses.replace(VARIANTS["ppyoloe-s"], num_classes=0))
    with torch.device("meta"):
        model = Network(VARIANTS["ppyoloe-s"])
    for image_hw in ((640, 600), (33, 64), (0, 64), (-32, 32)):
        with pytest.raises(UsageError, match="multiple"):
            model.make_input_spec(image_hw)


def test_preprocessing_is_that_of_each_generation() -> None:
    with torch.device("meta"):
        plain = Network(VARIANTS["ppyoloe-l"]).make_input_spec((320, 640))
        plus = Network(VARIANTS["ppyoloe-plus-l"]).make_input_spec((320, 640))
    assert plain.image_hw == plus.image_hw == (320, 640)
    assert plain.colour_order == plus.colour_order == "rgb"
    assert (plain.mean, plain.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (plus.mean, plus.std) == ((0, 0, 0), (1, 1, 1))


def decode_by_hand(maps: list[np.ndarray], decode: DflDecode) -> np.ndarray:
    """(A, 4) boxes_xyxy in pixels, from the description in `DflDecode` alone."""
    rows = []
    for stride, box_map in zip(decode.strides, maps[1::2], strict=True):
        for y in range(box_map.shape[1]):
            for x in range(box_map.shape[2]):
                sides = []
                for side in range(4):
                    bins = np.exp(box_map[side * decode.bins : (side + 1) * decode.bins, y, x].astype(np.float64))
                    sides.append((bins / bins.sum() * np.arange(decode.bins)).sum() * stride)
                centre_x, centre_y = (x + 0.5) * stride, (y + 0.5) * stride
                rows.append([centre_x - sides[0], centre_y - sides[1], centre_x + sides[2], centre_y + sides[3]])
    return np.array(rows)


def test_torch_decodes_as_the_description_says() -> None:
    model = warm(small())
    assert isinstance(model, Network)
    assert model.decode == DflDecode(strides=(8, 16, 32), bins=17)
    assert model.strides == (8, 16, 32)
    with torch.no_grad():
        maps = model(torch.rand(1, 3, 64, 96))
    criterion = model.make_criterion()
    grid = criterion.make_grid(maps)
    found = boxes_from_distances(grid.points_xy, DistanceIntegral(17).over_maps(maps[1::2]) * grid.strides[:, None])
    wanted = decode_by_hand([level[0].numpy() for level in maps], model.decode)
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-3)


@pytest.mark.parametrize("epoch", [0, 200])
@pytest.mark.parametrize("with_objects", [True, False])
def test_every_parameter_has_a_finite_gradient(epoch: int, with_objects: bool) -> None:
    model = small().train()
    criterion = model.make_criterion()
    criterion.start_epoch(epoch)
    loss = criterion(model(torch.rand(2, 3, 64, 64)), TARGETS if with_objects else TARGETS[:0], (64, 64))
    loss.total.backward()
    assert loss.total.isfinite()
    assert loss.total.item() == pytest.approx(sum(part.item() for part in loss.parts.values()), rel=1e-5)
    assert (loss.parts["iou"] > 0) == (loss.parts["dfl"] > 0) == with_objects
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert not any(part.requires_grad for part in loss.parts.values())


def make_criterion(model: Network, static_assigner_epochs: int) -> TalCriterion:
    decode, classes = model.decode, model.config.num_classes
    return TalCriterion(decode, classes, TalWeights(), static_assigner_epochs=static_assigner_epochs)


def test_the_static_epochs_are_a_share_of_the_schedule() -> None:
    model = small()
    assert model.make_criterion().static_assigner_epochs == 30
    assert model.make_criterion(epochs=8).static_assigner_epochs == 3


@pytest.mark.parametrize("static_assigner_epochs", [0, 1000])
def test_learns_two_pictures_by_heart(static_assigner_epochs: int) -> None:
    model = small().train()
    criterion = make_criterion(model, static_assigner_epochs)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    images = torch.rand(2, 3, 64, 64)
    boxes = []
    for _ in range(40):
        loss = criterion(model(images), TARGETS, (64, 64))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        boxes.append(loss.parts["iou"].item() + loss.parts["dfl"].item())
    assert sum(boxes[-3:]) < 0.6 * sum(boxes[:3])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_exports_to_onnx(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.create("ppyoloe-s", 4)
    folded = fold_model(warm(model))
    path = tmp_path / "model.onnx"
    images = torch.rand(1, 3, 64, 96)
    torch.onnx.export(folded, (images,), str(path), dynamo=False, opset_version=17, input_names=["images"])
    found = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
        None, {"images": images.numpy()}
    )
    with torch.no_grad():
        for wanted, level in zip(folded(images), found, strict=True):
            assert np.abs(wanted.numpy() - level).max() < 1e-4 * (wanted.max() - wanted.min()).item()
