"""The re-parameterised optimizer: a plain kernel goes the way of its scaled branches, step by step."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.rep_forms import RepScales, ScaledBranches, make_plain, scales_in, start_plain
from edgeyolo.nn.repvgg import RepVggBlock
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training import train
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.rep_optimizer import multiply_learning, take_rep_form

CONFIG = TrainConfig(
    model="yolov6n",
    epochs=1,
    image_size=64,
    batch=4,
    workers=0,
    precision="fp32",
    device="cpu",
    close_mosaic_epochs=0,
    cache_mib=16,
    auxiliary=False,
)
CHS = 4


class Branches(nn.Module):
    """The branches themselves, scales constant; the identity is a weight per channel, 1 at first."""

    def __init__(self, weight3x3: Tensor, weight1x1: Tensor, scales: RepScales) -> None:
        super().__init__()
        self.weight3x3, self.weight1x1 = nn.Parameter(weight3x3), nn.Parameter(weight1x1)
        self.identity = nn.Parameter(torch.ones(CHS, dtype=torch.float64))
        self.scales = scales

    def forward(self, x: Tensor) -> Tensor:
        s, t = (scale[:, None, None] for scale in (self.scales.conv3x3, self.scales.conv1x1))
        branches = s * F.conv2d(x, self.weight3x3, padding=1) + t * F.conv2d(x, self.weight1x1)
        return branches + self.identity[:, None, None] * x


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_plain_kernel_learns_as_its_branches_together(kind: str) -> None:
    torch.manual_seed(0)
    scales = RepScales(torch.rand(CHS).double() + 0.3, -torch.rand(CHS).double() - 0.3, torch.ones(CHS).double())
    weights = torch.randn(CHS, CHS, 3, 3).double(), torch.randn(CHS, CHS, 1, 1).double()
    branches = Branches(*(weight.clone() for weight in weights), scales)
    plain = nn.ModuleDict({"conv": nn.Conv2d(CHS, CHS, 3, padding=1, bias=False).double()})
    network = nn.ModuleDict({"block": plain})
    centre = scales.conv1x1[:, None, None, None] * weights[1] + torch.eye(CHS)[:, :, None, None].double()
    plain["conv"].weight = nn.Parameter(scales.conv3x3[:, None, None, None] * weights[0] + F.pad(centre, (1, 1, 1, 1)))

    def make(module: nn.Module) -> torch.optim.Optimizer:
        if kind == "sgd":
            return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.05)
        return torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.5, eps=1e-15)

    optimizers = make(branches), make(network)
    multiply_learning(optimizers[1], network, {"block": scales})
    for _ in range(10):
        x, wanted = torch.randn(2, 2, CHS, 5, 5).double()
        outputs = branches(x), plain["conv"](x)
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            (output - wanted).square().mean().backward()
            optimizer.step()


@pytest.mark.parametrize(("in_chs", "stride", "identity"), [(6, 1, True), (3, 2, False)])
def test_scaled_branches_fold_to_one_convolution(in_chs: int, stride: int, identity: bool) -> None:
    torch.manual_seed(0)
    block = ScaledBranches(RepVggBlock(in_chs, 6, stride, identity=identity, activation="relu"), depth=8)
    assert block.scale3x3.flatten().tolist() == block.scale1x1.flatten().tolist() == [0.5] * 6
    assert (block.scale_identity is not None) == identity
    with torch.no_grad():
        for scale in (block.scale3x3, block.scale1x1, block.scale_identity):
            if scale is not None:
                scale.uniform_(-1, 1)
        block(torch.randn(4, in_chs, 8, 8))
        x = torch.randn(1, in_chs, 8, 8)
        torch.testing.assert_close(block.eval().fold()(x), block(x), rtol=1e-4, atol=1e-5)


def test_plain_kernels_start_as_the_branches_add_up() -> None:
    network = nn.Sequential(RepVggBlock(CHS, CHS, identity=True))
    scaled = nn.Sequential(RepVggBlock(CHS, CHS, identity=True))
    take_rep_form(scaled, "scaled", where="here")
    scaled[0].scale3x3.data.zero_(), scaled[0].scale1x1.data.zero_()
    assert make_plain(network) == 1
    start_plain(network, scales_in(scaled))
    x = torch.randn(1, CHS, 5, 5)
    torch.testing.assert_close(network[0].conv(x), x)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 8, "val": 2, "test": 1}, image_hw=(64, 64), seed=1)
    return open_dataset(folder, "train"), open_dataset(folder, "val")


def test_a_search_and_the_run_that_follows_it(splits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    search = train(msgspec.structs.replace(CONFIG, rep="scaled"), splits, tmp_path / "search")
    found = scales_in(load_checkpoint(search.best).model)
    assert len(found) == 35 and sum(scales.identity is not None for scales in found.values()) > 10
    config = msgspec.structs.replace(CONFIG, rep="plain", rep_scales=str(tmp_path / "search"))
    model = load_checkpoint(train(config, splits, tmp_path / "plain").best).model
    assert not scales_in(model) and not any(isinstance(part, RepVggBlock) for part in model.modules())
    with torch.device("meta"):
        deploy = fold_model(models.create("yolov6n", len(splits[0].class_names)))
    assert [tuple(p.shape) for p in fold_model(model).parameters()] == [tuple(p.shape) for p in deploy.parameters()]
    with pytest.raises(UsageError, match="was not trained with rep = scaled"):
        train(msgspec.structs.replace(config, rep_scales=str(tmp_path / "plain")), splits, tmp_path / "again")
    with pytest.raises(UsageError, match="rep is branches"):
        train(msgspec.structs.replace(config, rep="branches"), splits, tmp_path / "again")


def test_a_network_without_such_convolutions() -> None:
    with pytest.raises(UsageError, match="no RepVGG convolutions"):
        take_rep_form(nn.Sequential(nn.Conv2d(3, 3, 1)), "plain", where="here")
