"""Every block: its shape, its deploy form against its eval form, and the function it stands for, written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeyolo.nn.activation import list_activations, make_activation
from edgeyolo.nn.conv import ConvAct, ConvBnAct, set_batch_norm
from edgeyolo.nn.down import PoolConvDown, WideDown
from edgeyolo.nn.elan import DoubleElan, Elan, ElanShape
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.implicit import ImplicitConv
from edgeyolo.nn.reorg import ReorgConv
from edgeyolo.nn.repconv import RepConv
from edgeyolo.nn.spp import SppCspc, TinySppCspc
from edgeyolo.spec.errors import UnknownNameError

BLOCKS = {
    "conv": (lambda: ConvBnAct(8, 12, 3), 1, 12),
    "strided conv": (lambda: ConvBnAct(8, 12, 3, 2, activation="relu"), 2, 12),
    "grouped conv": (lambda: ConvBnAct(8, 12, 5, groups=4, activation=None), 1, 12),
    "repconv": (lambda: RepConv(8, 12), 1, 12),
    "implicit": (lambda: ImplicitConv(8, 12), 1, 12),
    "reorg": (lambda: ReorgConv(8, 12), 2, 12),
    "elan": (lambda: Elan(8, 12, ElanShape(6, 4, 4, step=2)), 1, 12),
    "double elan": (lambda: DoubleElan(8, 12, ElanShape(6, 4, 6)), 1, 12),
    "spp": (lambda: SppCspc(8, 12), 1, 12),
    "tiny spp": (lambda: TinySppCspc(8, 12), 1, 12),
    "pool-conv down": (lambda: PoolConvDown(8, 12), 2, 12),
    "wide down": (lambda: WideDown(8, 12), 2, 12),
}


def settled(block):
    """In eval mode, with batch norms that do something and statistics of real batches."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    for _ in range(3):
        block(torch.randn(4, 8, 16, 16))
    return block.eval()


@pytest.mark.parametrize("name", BLOCKS)
def test_deploy_form_computes_the_same(name):
    torch.manual_seed(0)
    make, stride, out_chs = BLOCKS[name]
    block = settled(make())
    images = torch.randn(2, 8, 16, 24)
    folded = fold_model(nn.Sequential(block))
    expected = block(images)
    assert expected.shape == (2, out_chs, 16 // stride, 24 // stride)
    span = (expected.max() - expected.min()).item()
    torch.testing.assert_close(folded(images), expected, rtol=0, atol=1e-5 * span)
    kinds = {type(m) for m in folded.modules()}
    assert not kinds & {nn.BatchNorm2d, ConvBnAct, RepConv, ImplicitConv, ReorgConv}
    assert all(m.bias is not None for m in folded.modules() if isinstance(m, nn.Conv2d))
    assert not folded.training


def test_folding_leaves_the_model_alone_and_keeps_paths():
    model = nn.Sequential(nn.Sequential(ConvBnAct(3, 8, 3)), RepConv(8, 8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_model(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(folded.state_dict()) == {"0.0.conv.weight", "0.0.conv.bias", "1.conv.weight", "1.conv.bias"}
    with torch.no_grad():
        folded[0][0].conv.weight.zero_()
    assert torch.equal(model[0][0].conv.weight, before["0.0.conv.weight"])


def test_a_block_that_folds_to_nothing_is_gone():
    class Aside(nn.Linear):
        def fold(self):
            return None

    model = nn.ModuleDict({"kept": ConvBnAct(3, 4), "aside": Aside(2, 2)})
    folded = fold_model(model)
    assert isinstance(folded["kept"], ConvAct)
    assert [name for name in folded.state_dict() if name.startswith("aside")] == []


def test_a_batch_norm_without_statistics_is_refused():
    block = ConvBnAct(3, 4)
    block.bn = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="running statistics"):
        block.fold()


def test_repconv_is_the_sum_of_its_branches():
    torch.manual_seed(0)
    block = settled(RepConv(8, 5, activation="relu"))
    x = torch.randn(1, 8, 9, 9)
    branches = []
    for branch in (block.dense, block.point):
        y = F.conv2d(x, branch.conv.weight, padding=branch.conv.kernel_size[0] // 2)
        mean, variance = branch.bn.running_mean[:, None, None], branch.bn.running_var[:, None, None]
        y = (y - mean) / torch.sqrt(variance + branch.bn.eps)
        branches.append(y * branch.bn.weight[:, None, None] + branch.bn.bias[:, None, None])
    torch.testing.assert_close(block(x), F.relu(branches[0] + branches[1]), rtol=1e-4, atol=1e-5)


def test_implicit_vectors_act_before_and_after():
    block = ImplicitConv(3, 4)
    x = torch.randn(2, 3, 5, 5)
    expected = torch.einsum("oc,bchw->bohw", block.conv.weight[:, :, 0, 0], x + block.offset)
    expected = (expected + block.conv.bias[:, None, None]) * block.scale
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-6)


def test_pyramid_chain_is_the_pools_of_5_9_and_13():
    x = torch.randn(2, 3, 11, 17)
    pooled = SppCspc(3, 4).pyramid(x)
    assert torch.equal(pooled[0], x)
    for y, size in zip(pooled[1:], (5, 9, 13), strict=True):
        assert torch.equal(y, F.max_pool2d(x, size, stride=1, padding=size // 2))


@pytest.mark.parametrize("step", [1, 2])
def test_elan_concatenates_latest_first(step):
    torch.manual_seed(0)
    block = settled(Elan(8, 3, ElanShape(6, 4, 4, step=step)))
    x = torch.randn(1, 8, 6, 6)
    chain = [block.entry(x)]
    for conv in block.chain:
        chain.append(conv(chain[-1]))
    kept = [chain[4], chain[3], chain[2], chain[1]] if step == 1 else [chain[4], chain[2]]
    assert torch.equal(block(x), block.join(torch.cat([*kept, chain[0], block.skip(x)], dim=1)))


def test_reorg_takes_pixels_in_the_published_order():
    block = ReorgConv(1, 2, activation=None).eval()
    seen = []
    block.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    block(x)
    assert seen[0][0, :, 0, 0].tolist() == [0.0, 4.0, 1.0, 5.0]


def test_down_samplers_join_strided_then_pooled():
    for block in (settled(PoolConvDown(8, 6)), settled(WideDown(8, 6))):
        x = torch.randn(1, 8, 8, 8)
        parts = [block.strided(block.entry(x)), block.pooled(F.max_pool2d(x, 2))]
        assert torch.equal(block(x), torch.cat(parts, dim=1))
    assert PoolConvDown(8, 6).entry.conv.out_channels == 3
    assert WideDown(8, 6).entry.conv.out_channels == 8


def test_activations():
    x = torch.linspace(-4, 4, 41)
    expected = {
        "silu": x * torch.sigmoid(x),
        "leaky_relu": torch.where(x > 0, x, 0.1 * x),
        "relu": x.clamp(min=0),
        "hardswish": x * (x + 3).clamp(0, 6) / 6,
        "mish": x * torch.tanh(torch.log1p(torch.exp(x))),
    }
    assert list_activations() == sorted(expected)
    for name, values in expected.items():
        torch.testing.assert_close(make_activation(name)(x), values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(make_activation(name, inplace=True)(x.clone()), values, rtol=1e-5, atol=1e-6)
    assert torch.equal(make_activation(None)(x), x)
    with pytest.raises(UnknownNameError, match="leaky_relu"):
        make_activation("leaky")


def test_set_batch_norm_reaches_every_one():
    block = Elan(8, 8, ElanShape(4, 4, 2))
    set_batch_norm(block, eps=1e-3, momentum=0.03)
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 5
    assert all(m.eps == 1e-3 and m.momentum == 0.03 for m in norms)
