"""Deformable convolution against equation 1 of its paper, tap by tap, and against ONNX's own definition."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edgeyolo.backends import build
from edgeyolo.export.onnx import trace_onnx
from edgeyolo.export.verify import _run_onnx
from edgeyolo.nn.deform import DeformConvBnAct, deform_conv
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization.placement.groups import find_placement
from edgeyolo.spec.errors import BackendError, ExportError
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
from edgeyolo.spec.target import load_target


def sample(channel: list[list[float]], y: float, x: float) -> float:
    """Between four cells; 0 outside."""
    value = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < len(channel) and 0 <= column < len(channel[0]):
                value += channel[row][column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def plain(x: Tensor, weight: Tensor, bias: Tensor, moves: Tensor, masks: Tensor, stride: int) -> Tensor:
    out = torch.zeros(len(x), len(weight), *moves.shape[2:])
    side = weight.shape[2]
    for b, o, i, j in torch.cartesian_prod(*(torch.arange(n) for n in out.shape)).tolist():
        total = bias[o].item()
        for tap in range(side * side):
            dy, dx = moves[b, 2 * tap, i, j].item(), moves[b, 2 * tap + 1, i, j].item()
            y, left = i * stride - side // 2 + tap // side + dy, j * stride - side // 2 + tap % side + dx
            for c in range(x.shape[1]):
                value = sample(x[b, c].tolist(), y, left)
                total += weight[o, c, tap // side, tap % side].item() * value * masks[b, tap, i, j].item()
        out[b, o, i, j] = total
    return out


@pytest.mark.parametrize("stride", [1, 2])
def test_it_is_the_equation_of_the_paper(stride: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 2, 4, 6), torch.randn(3, 2, 3, 3), torch.randn(3)
    moves, masks = 2 * torch.randn(2, 18, 4 // stride, 6 // stride), torch.rand(2, 9, 4 // stride, 6 // stride)
    args = (x, weight, bias, moves, masks, stride)
    torch.testing.assert_close(deform_conv(*args), plain(*args), rtol=1e-4, atol=1e-4)


def test_without_moves_it_is_half_of_a_convolution() -> None:
    torch.manual_seed(0)
    block, x = DeformConvBnAct(4, 5, 3, activation=None).eval(), torch.randn(1, 4, 1, 7)
    block.bn = nn.Identity()  # type: ignore[assignment]
    torch.testing.assert_close(block(x), nn.functional.conv2d(x, block.conv.weight, padding=1) / 2)


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.entry, self.deform = nn.Conv2d(3, 6, 3, 1, 1), DeformConvBnAct(6, 5, 3, 2, activation="relu")
        self.hidden, self.output = nn.Conv2d(5, 4, 1), nn.Conv2d(4, 6, 1)
        for parameter in self.deform.conv.guide.parameters():
            nn.init.normal_(parameter)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.output(self.hidden(self.deform(self.entry(images))))]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    model = _Network().train()
    model(torch.rand(4, 3, 16, 24))
    return fold_model(model)


def test_it_is_exported_as_one_operator_of_that_meaning(network: nn.Module) -> None:
    model = trace_onnx(network, (16, 24), 1)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("DeformConv") == 1
    images = torch.rand(1, 3, 16, 24)
    (found,) = ReferenceEvaluator(model).run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(images)[0].detach(), rtol=1e-4, atol=1e-5)


def test_an_onnxruntime_that_is_too_old_for_it_is_told_apart(network: nn.Module) -> None:
    """An operator set that the engine does not know stands for one that it does not have."""
    model = trace_onnx(network, (16, 24), 1)
    (node,) = (node for node in model.graph.node if node.op_type == "DeformConv")
    node.domain = "ai.onnx.preview.training"  # known to the engine, but not with this operator
    model.opset_import.append(onnx.helper.make_opsetid(node.domain, 1))
    with pytest.raises(ExportError, match=r"lacks an operator.*ppyolo-r50 for ppyolo-r50-dcn"):
        _run_onnx(model, torch.rand(1, 3, 16, 24).numpy())


def test_its_own_weights_stay_float_and_the_layers_around_it_do_not(network: nn.Module) -> None:
    placement = find_placement(torch.fx.symbolic_trace(network))
    assert placement.unsupported == ()
    assert placement.int8_layers() == ["entry", "deform.0.guide", "hidden"]


@pytest.mark.parametrize("target", ["host-ncnn", "host-openvino", "jetson", "rockchip-rk3588-npu"])
def test_an_engine_without_it_says_so(network: nn.Module, target: str, tmp_path: Path) -> None:
    onnx.save(trace_onnx(network, (16, 24), 1), tmp_path / "model.onnx")
    decode = AnchorDecode(strides=(2,), anchors_wh=(((4.0, 4.0),),))
    spec = ModelSpec(name="m", activation="relu", class_names=("a",), input=InputSpec(image_hw=(16, 24)), decode=decode)
    wanted = load_target(target)
    with pytest.raises(BackendError, match=r"has no DeformConv.*onnxruntime"):
        build(tmp_path / "model.onnx", spec, None, wanted, tmp_path / "out", precision=wanted.precisions[-1])
