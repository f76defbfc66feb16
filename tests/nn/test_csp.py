"""PP-YOLOE's stages: shapes, residuals, pooling, folding, tracing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeyolo.nn.csp import CspPanStage, CspResStage, PooledConv, RepResBlock
from edgeyolo.nn.fold import fold_model


def warm(module: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """A few training passes, so that batch norms have statistics; gives an input."""
    torch.manual_seed(0)
    for _ in range(3):
        module.train()(torch.randn(shape) * 2 + 0.5)
    module.eval()
    return torch.randn(shape)


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        (CspResStage(8, 16, 2, activation="silu", alpha=True), (2, 16, 8, 8)),
        (CspResStage(8, 24, 1, activation="relu", alpha=False), (2, 24, 8, 8)),
        (CspPanStage(8, 12, 1, activation="silu", pyramid=True), (2, 12, 16, 16)),
        (CspPanStage(8, 12, 3, activation="hardswish"), (2, 12, 16, 16)),
    ],
)
def test_folded_stage_is_the_same_function(stage: nn.Module, wanted: tuple[int, ...]) -> None:
    x = warm(stage, (2, 8, 16, 16))
    folded = fold_model(nn.Sequential(stage))
    torch.fx.symbolic_trace(folded)
    with torch.no_grad():
        before, after = stage(x), folded(x)
    assert before.shape == wanted
    assert (before - after).abs().max() < 1e-5 * (before.max() - before.min())
    assert not any(isinstance(child, nn.BatchNorm2d) for child in folded.modules())


def test_shortcut_adds_the_input() -> None:
    block = RepResBlock(4, activation="silu", shortcut=True)
    x = warm(block, (2, 4, 6, 6))
    with torch.no_grad():
        torch.testing.assert_close(block(x) - x, block.rep(block.conv(x)), atol=1e-6, rtol=0)
        block.shortcut = False
        torch.testing.assert_close(block(x), block.rep(block.conv(x)))


def test_pools_stand_beside_the_input_smallest_first() -> None:
    block = PooledConv(1, activation="relu").eval()
    x = torch.rand(1, 1, 15, 15)
    for place, size in enumerate((1, 5, 9, 13)):
        nn.init.zeros_(block.conv.conv.weight)
        with torch.no_grad():
            block.conv.conv.weight[0, place] = 1
            wanted = nn.functional.max_pool2d(x, size, 1, size // 2)
            torch.testing.assert_close(block(x), wanted, atol=1e-4, rtol=0)


def test_the_pyramid_follows_the_middle_block() -> None:
    for count, place in ((1, 1), (2, 1), (3, 2), (4, 2)):
        stage = CspPanStage(4, 8, count, activation="silu", pyramid=True)
        assert [isinstance(block, PooledConv) for block in stage.blocks].index(True) == place
