"""Every model of the registry: shapes, gradients, deploy form. The registry tests its guests."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from thin import list_networks, make_network
from torch import nn

from edgeyolo import models
from edgeyolo.nn.fold import fold_model
from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.model import AnchorDecode, GridDecode, HeatmapDecode, PointDecode

NAMES = models.model_names()


def expected_channels(model):
    """Channels of the maps of each level."""
    decode, classes = model.decode, model.config.num_classes
    if isinstance(decode, AnchorDecode):
        return [[len(level) * (5 + classes + (decode.iou_power > 0))] for level in decode.anchors_wh]
    if isinstance(decode, GridDecode):
        return [[5 * decode.boxes + classes]]
    if isinstance(decode, HeatmapDecode):
        return [[classes]]
    if isinstance(decode, PointDecode):
        return [[classes, 1, 4] if decode.objectness else [classes, 4]] * len(decode.strides)
    return [[classes, 4 * decode.bins]] * len(decode.strides)


def expected_shapes(model, batch, side):
    levels = zip(expected_channels(model), model.strides, strict=True)
    return [(batch, c, side // s, side // s) for channels, s in levels for c in channels]


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_as_the_decode_says(name):
    with torch.device("meta"):
        model = models.create(name, 7)
        images = torch.empty(2, 3, 256, 256)
        expected = expected_shapes(model, 2, 256)
        assert [tuple(m.shape) for m in model.eval()(images)] == expected
        assert [tuple(m.shape) for m in model.train()(images)][: len(expected)] == expected
    assert model.strides == model.decode.strides
    assert model.config.name == name
    assert dataclasses.is_dataclass(model.config)


@pytest.mark.parametrize("name", NAMES)
def test_deploy_form_is_convolutions_that_trace(name):
    with torch.device("meta"):
        model = models.create(name, 3)
        folded = fold_model(model)
        traced = torch.fx.symbolic_trace(folded)
        shapes = [tuple(m.shape) for m in traced(torch.empty(1, 3, 256, 256))]
    assert shapes == expected_shapes(model, 1, 256)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert folded.config == model.config
    assert folded.decode == model.decode
    assert folded.make_input_spec((256, 256)) == model.make_input_spec((256, 256))


@pytest.mark.parametrize("name", list_networks())
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    model = make_network(name, 2).train()
    targets = torch.tensor([[0, 0, 10, 10, 60, 70], [0, 1, 40, 50, 120, 126], [1, 1, 64, 30, 100, 90.0]])
    criterion = model.make_criterion()
    criterion.start_epoch(0)
    loss = criterion(model(torch.rand(2, 3, 128, 128)), targets, (128, 128))
    loss.total.backward()
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(sum(loss.parts.values()), loss.total.detach(), rtol=1e-5, atol=1e-6)
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", list_networks())
def test_folding_changes_nothing(name):
    torch.manual_seed(0)
    model = make_network(name, 2).double().train()  # some maps hardly move: rounding would be a part of their span
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "bn" in parameter_name.split("."):
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model(torch.rand(2, 3, 128, 128).double())
        model.eval()
        images = torch.rand(1, 3, 128, 128).double()
        for before, after in zip(model(images), fold_model(model)(images), strict=True):
            span = (before.max() - before.min()).item()
            torch.testing.assert_close(after, before, rtol=0, atol=1e-4 * span)


@pytest.mark.parametrize("name", NAMES)
def test_a_size_that_a_level_would_cut_is_refused(name):
    with torch.device("meta"):
        model = models.create(name, 2)
    coarsest = model.side_multiple
    assert coarsest % max(model.strides) == 0
    assert model.make_input_spec((coarsest, 3 * coarsest)).image_hw == (coarsest, 3 * coarsest)
    for image_hw in ((coarsest, coarsest + 8), (0, coarsest), (-coarsest, coarsest), (coarsest // 2, coarsest)):
        with pytest.raises(UsageError, match=str(coarsest)):
            model.make_input_spec(image_hw)


@pytest.mark.parametrize("activation", ["relu", "hardswish", "mish", "silu", "leaky_relu"])
@pytest.mark.parametrize("name", ["yolov7-nano", "yolov7"])
def test_activation_is_a_choice(name, activation):
    with torch.device("meta"):
        model = models.create(name, 2, activation=activation)
    kinds = {nn.ReLU, nn.Hardswish, nn.Mish, nn.SiLU, nn.LeakyReLU}
    assert {type(m).__name__.lower() for m in model.modules() if type(m) in kinds} == {activation.replace("_", "")}


def test_names_and_classes_that_do_not_exist():
    with pytest.raises(UnknownNameError, match="yolov7-tiny"):
        models.create("yolov7-tyni", 80)
    with pytest.raises(UsageError, match="0 classes"):
        models.create("yolov7-tiny", 0)
    with pytest.raises(UnknownNameError, match="silu"):
        models.create("yolov7-tiny", 3, activation="sliu")


def test_the_list_has_every_model():
    """What is written down of each is what its network has; `make tables` writes it anew."""
    infos = models.list_models()
    assert infos == [models.measure_model(name) for name in NAMES]
    assert [info.name for info in infos] == NAMES
    assert len(set(NAMES)) == len(NAMES)
    assert all(0 < info.parameters_deploy <= info.parameters_training for info in infos)
