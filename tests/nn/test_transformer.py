"""The transformer encoder over cells against torch's own attention, and its deploy form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.transformer import C3Transformer, CellAttention, Encoder, LinearPair

CHS = 32


def matrix(conv: nn.Conv2d) -> Tensor:
    return conv.weight[:, :, 0, 0]


def attention_by_torch(layer: CellAttention, tokens: Tensor) -> Tensor:
    """Tokens (B, N, C); each projection's first matrix before torch's attention, the second inside of it."""
    pairs = (layer.query, layer.key, layer.value)
    attention = nn.MultiheadAttention(CHS, 4, batch_first=True)
    attention.in_proj_weight = nn.Parameter(torch.cat([matrix(pair.second) for pair in pairs]))
    attention.in_proj_bias = nn.Parameter(torch.cat([pair.second.bias for pair in pairs]))
    attention.out_proj.weight, attention.out_proj.bias = nn.Parameter(matrix(layer.join)), layer.join.bias
    found: Tensor = attention(*(tokens @ matrix(pair.first).T for pair in pairs))[0]
    return found


def test_the_encoder_is_that_of_the_papers() -> None:
    torch.manual_seed(0)
    encoder = Encoder(CHS, 2)
    maps = torch.randn(2, CHS, 3, 5)
    with torch.no_grad():
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = tokens + tokens @ matrix(encoder.position).T + encoder.position.bias
        for layer in encoder.layers:
            tokens = attention_by_torch(layer.attention, tokens) + tokens
            tokens = tokens @ matrix(layer.mix.first).T @ matrix(layer.mix.second).T + tokens
        found = encoder(maps)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-4)


def test_pairs_of_linear_layers_fold_to_one() -> None:
    torch.manual_seed(0)
    stage = C3Transformer(CHS, 2 * CHS, 1).eval()
    folded = fold_model(stage)
    assert not any(isinstance(module, LinearPair) for module in folded.modules())
    maps = torch.randn(1, CHS, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(folded(maps), stage(maps), rtol=1e-4, atol=1e-5)
    # of each layer 9 c^2 + 4 c in training, 5 c^2 + 4 c once folded; c^2 + c of the position
    count = sum(p.numel() for p in stage.blocks.parameters())
    assert count == 10 * CHS**2 + 5 * CHS
    assert sum(p.numel() for p in folded.blocks.parameters()) == count - 4 * CHS**2
