"""The blocks of DAMO-YOLO against plain arithmetic, and their deploy form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.scaled import ScaledConv
from edgeyolo.nn.tinynas import FusionStage, InvertedResidual, RepResidual, ReverseBlock


def warm(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """A few training passes, so that batch norms have statistics; gives an input."""
    torch.manual_seed(0)
    for _ in range(3):
        module.train()(torch.randn(shape) * 2 + 0.5)
    module.eval()
    return torch.randn(shape)


def make_reverse(chs: int) -> ReverseBlock:
    return ReverseBlock(chs, 2 * chs, activation="silu")


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        (InvertedResidual(8, 8, 24, activation="silu"), (2, 8, 16, 16)),
        (InvertedResidual(8, 12, 24, 2, activation="silu"), (2, 12, 8, 8)),
        (RepResidual(8, 8, 4, entry_size=3, activation="relu"), (2, 8, 16, 16)),
        (RepResidual(8, 12, 4, 2, entry_size=1, activation="relu"), (2, 12, 8, 8)),
        (FusionStage(8, 13, 2, make_reverse, activation="silu"), (2, 13, 16, 16)),
        (ScaledConv(8, 6, 3), (2, 6, 16, 16)),
    ],
)
def test_folded_block_is_the_same_function(block: nn.Module, wanted: tuple[int, ...]) -> None:
    x = warm(block, (2, 8, 16, 16))
    if isinstance(block, ScaledConv):
        nn.init.constant_(block.scale, 1.7)
    folded = fold_model(nn.Sequential(block))
    torch.fx.symbolic_trace(folded)
    with torch.no_grad():
        before, after = block(x), folded(x)
    assert before.shape == wanted
    assert (before - after).abs().max() < 1e-5 * (before.max() - before.min())
    assert not any(isinstance(child, nn.BatchNorm2d | ScaledConv) for child in folded.modules())


def test_a_backbone_adds_before_the_activation_and_a_neck_after_it() -> None:
    back, neck = RepResidual(4, 4, 6, entry_size=1, activation="relu"), ReverseBlock(4, 6, activation="relu")
    for block in (back, neck):
        x = warm(block, (2, 4, 6, 6))
        with torch.no_grad():
            out = block.exit(block.entry(x))
            torch.testing.assert_close(block(x), F.relu(x + out) if block is back else x + out)
            assert (block(x) < 0).any() == (block is neck)


def test_an_inverted_residual_adds_only_where_shapes_allow_it() -> None:
    for in_chs, stride, adds in ((4, 1, True), (6, 1, False), (4, 2, False)):
        block = InvertedResidual(in_chs, 4, 8, stride, activation="silu")
        x = warm(block, (2, in_chs, 6, 6))
        with torch.no_grad():
            branch = block.exit(block.depth(block.entry(x)))
            torch.testing.assert_close(block(x), x + branch if adds else branch)


def test_a_re_parameterised_residual_must_have_a_shortcut_that_fits() -> None:
    with pytest.raises(ValueError, match="no shortcut from 4 to 6"):
        RepResidual(4, 6, 4, entry_size=1, activation="relu")


def test_every_block_of_a_fusion_stage_is_joined_behind_the_skipped_half() -> None:
    stage = FusionStage(4, 6, 3, make_reverse, activation="silu")
    x = warm(stage, (2, 4, 6, 6))
    with torch.no_grad():
        first = stage.blocks[0](stage.entry(x))
        second = stage.blocks[1](first)
        parts = torch.cat((stage.skip(x), first, second, stage.blocks[2](second)), dim=1)
        torch.testing.assert_close(stage(x), stage.join(parts))
