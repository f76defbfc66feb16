"""Channel attention against the formula in numpy."""

from __future__ import annotations

import numpy as np
import torch

from edgeyolo.nn.ese import EffectiveSe, EseAttention


def test_effective_se_is_a_gate_per_channel() -> None:
    torch.manual_seed(0)
    block = EffectiveSe(6)
    x = torch.randn(2, 6, 5, 7)
    with torch.no_grad():
        found = block(x).numpy()
    values = x.numpy().astype(np.float64)
    weight = block.fc.weight.detach().numpy()[:, :, 0, 0].astype(np.float64)
    assert block.fc.bias is not None
    mixed = values.mean(axis=(2, 3)) @ weight.T + block.fc.bias.detach().numpy()
    gate = np.clip(mixed / 6 + 0.5, 0, 1)
    np.testing.assert_allclose(found, values * gate[:, :, None, None], atol=1e-5)


def test_ese_attention_gates_before_it_mixes() -> None:
    torch.manual_seed(0)
    block = EseAttention(4, activation="relu").eval()
    torch.nn.init.normal_(block.fc.weight)
    x = torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        found = block(x, x.mean((2, 3), keepdim=True)).numpy()
    values = x.numpy().astype(np.float64)
    mixed = values.mean(axis=(2, 3)) @ block.fc.weight.detach().numpy()[:, :, 0, 0].T
    gated = values / (1 + np.exp(-mixed))[:, :, None, None]
    weight = block.conv.conv.weight.detach().numpy()[:, :, 0, 0] / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(found, np.maximum(np.einsum("oc,bchw->bohw", weight, gated), 0), atol=1e-5)


def test_ese_attention_starts_half_open() -> None:
    block = EseAttention(16, activation="silu")
    with torch.no_grad():
        gate = block.gate(block.fc(torch.randn(1, 16, 1, 1)))
    assert (gate - 0.5).abs().max() < 0.01
