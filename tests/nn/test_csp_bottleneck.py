"""BottleneckCSP: batch norm over both halves, folded into each."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgeyolo.nn.csp_bottleneck import CspBottleneck
from edgeyolo.nn.fold import fold_model


def test_both_halves_share_a_norm_that_folds_into_them() -> None:
    torch.manual_seed(0)
    stage = CspBottleneck(6, 8, 2, shortcut=False)
    with torch.no_grad():
        for module in stage.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        stage(torch.randn(4, 6, 8, 8))
        stage.eval()
        x = torch.randn(1, 6, 5, 7)
        halves = torch.cat((stage.deep(stage.blocks(stage.entry(x))), stage.skip(x)), dim=1)
        wanted = stage.join(F.silu(stage.bn(halves)))
        torch.testing.assert_close(stage(x), wanted)
        whole = fold_model(nn.Sequential(stage))
        torch.testing.assert_close(whole(x), wanted, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in whole.modules())
    assert stage.bn.num_features == 8 and stage.deep.bias is None
