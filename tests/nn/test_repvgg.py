"""RepVGG blocks: folding changes the form, not the function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeyolo.nn.repvgg import RepVggBlock


def scramble(module: nn.Module) -> None:
    """Weights and batch norm statistics as after training: nothing at its initial value."""
    generator = torch.Generator().manual_seed(0)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            assert child.running_mean is not None
            assert child.running_var is not None
            child.running_mean.normal_(generator=generator)
            child.running_var.uniform_(0.5, 2.0, generator=generator)
            nn.init.uniform_(child.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(child.bias, generator=generator)
    if isinstance(module, RepVggBlock) and module.alpha is not None:
        nn.init.constant_(module.alpha, 0.37)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    ("in_chs", "out_chs", "stride", "identity"), [(8, 8, 1, True), (8, 8, 1, False), (6, 10, 2, False)]
)
def test_folds_to_one_convolution(in_chs: int, out_chs: int, stride: int, identity: bool, alpha: bool) -> None:
    block = RepVggBlock(in_chs, out_chs, stride, identity=identity, alpha=alpha, activation="leaky_relu").eval()
    scramble(block)
    x = torch.randn(2, in_chs, 9, 11, generator=torch.Generator().manual_seed(1))
    folded = block.fold().eval()
    with torch.no_grad():
        wanted, found = block(x), folded(x)
    assert (wanted - found).abs().max() < 1e-5 * (wanted.max() - wanted.min())
    assert sum(isinstance(child, nn.Conv2d) for child in folded.modules()) == 1
    assert sum(p.numel() for p in folded.parameters()) == out_chs * (9 * in_chs + 1)


def test_branches_add_up_by_hand() -> None:
    block = RepVggBlock(1, 1, identity=True, alpha=True, activation=None).eval()
    nn.init.ones_(block.conv3x3.conv.weight)
    nn.init.constant_(block.conv1x1.conv.weight, 3.0)
    assert block.alpha is not None
    nn.init.constant_(block.alpha, 0.5)
    with torch.no_grad():
        out = block(torch.ones(1, 1, 3, 3))[0, 0]
    # nine (four at a corner) neighbours + 0.5 x 3 + 1, each batch norm dividing by sqrt(1 + 1e-5)
    assert out[1, 1].item() == pytest.approx(11.5, rel=1e-4)
    assert out[0, 0].item() == pytest.approx(6.5, rel=1e-4)


def test_one_alpha_per_block() -> None:
    plain, plus = (sum(p.numel() for p in RepVggBlock(4, 4, alpha=alpha).parameters()) for alpha in (False, True))
    assert plus == plain + 1


def test_no_identity_branch_across_a_change_of_shape() -> None:
    with pytest.raises(ValueError, match="identity"):
        RepVggBlock(4, 8, identity=True)
    with pytest.raises(ValueError, match="identity"):
        RepVggBlock(4, 4, 2, identity=True)


def test_a_stem_that_halves_the_picture_trains_in_channels_last() -> None:
    """oneDNN's strided 1x1 convolution overwrote the heap here within some steps, and the process died."""
    block = RepVggBlock(3, 16, 2).to(memory_format=torch.channels_last)
    for _ in range(40):
        images = torch.rand(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        block(images).square().mean().backward()
    strided = nn.Conv2d(3, 16, 1, 2, bias=False)
    strided.weight = block.conv1x1.conv.weight
    torch.testing.assert_close(block.conv1x1.conv(images[..., ::2, ::2]), strided(images))
