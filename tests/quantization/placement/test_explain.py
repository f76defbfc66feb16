"""The placement in words: complete, and in order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.placement.explain import explain
from edgeyolo.quantization.placement.groups import Placement, find_placement, tensors_by_group


class Net(nn.Module):
    """A residual, a pool, a concat, one layer called twice, an unknown operator, and a head."""

    def __init__(self) -> None:
        super().__init__()
        for name in "abcde":
            setattr(self, name, nn.Conv2d(8, 8, 3, padding=1))
        self.pool, self.twice, self.out = nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.silu(self.a(x))
        y = F.silu(self.c(F.silu(self.b(x)) + x))
        z = F.silu(self.d(self.pool(y)))
        strange = torch.cumsum(z, 3)
        return [self.out(torch.cat([self.twice(y), self.twice(F.silu(z))], 1)), F.relu(self.e(strange))]


@pytest.fixture(scope="module")
def small() -> tuple[fx.GraphModule, Placement]:
    deploy = fx.symbolic_trace(Net().eval())
    return deploy, find_placement(deploy, ("d",))


def test_every_layer_and_group_is_explained(small: tuple[fx.GraphModule, Placement]) -> None:
    deploy, placement = small
    explained = explain(placement, deploy)
    assert [row.path for row in explained.layers] == list(placement.layers)
    whys = {row.path: (row.precision, row.why) for row in explained.layers}
    assert whys["a"][0] == "int8"
    assert whys["d"] == ("float", "kept float by 'd'")
    assert whys["out"] == ("float", "head output")
    assert whys["e"] == ("float", "reads the unsupported operator 'cumsum'")
    assert {row.path: row.kind for row in explained.layers}["a"] == "Conv2d 3x3/1, 8 -> 8"
    assert explained.unsupported == ("cumsum (cumsum)",)
    by_name = {row.name: row for row in explained.groups}
    assert set(by_name) == set(placement.groups)
    causes = {path: by_name[placement.layers[path].group].joined_by for path in ("a", "b", "twice")}
    assert causes["a"] == ()
    assert causes["b"] == ("add (add): adds operands of one scale",)
    assert "twice: one layer, called 2 times" in causes["twice"]


def test_the_text_names_everything(small: tuple[fx.GraphModule, Placement]) -> None:
    deploy, placement = small
    groups = dict.fromkeys(placement.groups, 0.5)
    text = str(explain(placement, deploy, Scales(groups, {}, "max", "max", {})))
    assert "8 layers" not in text and "7 layers: 4 int8, 3 float" in text
    assert text.count("scale 0.5\n") == len(groups)
    for name in (*placement.layers, *placement.groups, "cumsum (cumsum)", "head output"):
        assert name in text


def test_a_group_covers_tensors_that_nobody_reads_in_int8(small: tuple[fx.GraphModule, Placement]) -> None:
    """`pool` shares the scale of `y`, which the convolution `twice` reads, though only a float layer reads it."""
    deploy, placement = small
    covered = tensors_by_group(deploy, placement)
    assert set(covered) == set(placement.groups)
    group = placement.layers["twice"].group
    assert "pool" in covered[group] and "pool" not in placement.groups[group].tensors
    for name, tensors in covered.items():
        assert set(placement.groups[name].tensors) <= set(tensors)
    assert len([t for tensors in covered.values() for t in tensors]) == len({t for ts in covered.values() for t in ts})
