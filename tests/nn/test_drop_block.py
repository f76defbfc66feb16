"""DropBlock against algorithm 1 of the paper, cell by cell."""

from __future__ import annotations

import pytest
import torch

from edgeyolo.nn.drop_block import DropBlock, drop_block


@pytest.mark.parametrize(("hw", "size"), [((12, 9), 3), ((12, 9), 4), ((5, 9), 7), ((3, 2), 7)])
def test_is_the_algorithm(hw: tuple[int, int], size: int) -> None:
    x = torch.randn(3, 4, *hw, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    found = drop_block(x, 0.4, size)
    high, wide = min(size, hw[0]), min(size, hw[1])
    rows, columns = hw[0] - high + 1, hw[1] - wide + 1
    gamma = 0.4 / (high * wide) * (hw[0] * hw[1]) / (rows * columns)
    torch.manual_seed(0)
    drawn = torch.rand(3, 4, rows, columns)
    mask = torch.ones(3, 4, *hw)
    for picture, channel, row, column in (drawn < gamma).nonzero().tolist():
        mask[picture, channel, row : row + high, column : column + wide] = 0
    assert 0 < mask.sum() < mask.numel()
    torch.testing.assert_close(found, x * mask * mask.numel() / mask.sum())


def test_drops_as_much_as_it_is_told() -> None:
    torch.manual_seed(0)
    dropped = (drop_block(torch.ones(8, 64, 20, 20), 0.1, 5) == 0).float().mean().item()
    assert dropped == pytest.approx(0.1, abs=0.01)


def test_no_pictures_and_half_precision() -> None:
    assert drop_block(torch.ones(0, 4, 8, 8), 0.1, 3).shape == (0, 4, 8, 8)
    half = drop_block(torch.ones(2, 4, 8, 8, dtype=torch.bfloat16), 0.1, 3)
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_as_a_part_of_a_network_it_is_there_in_training_only() -> None:
    torch.manual_seed(0)
    block, x = DropBlock(0.3, 2), torch.ones(2, 8, 10, 10)
    assert (block.train()(x) == 0).float().mean().item() == pytest.approx(0.3, abs=0.1)
    assert torch.equal(block.eval()(x), x) and torch.equal(block.fold()(x), x)
