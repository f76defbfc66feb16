"""CmBN: a part of a batch is normalised as if those before it were there, and a batch is remembered once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from fresh_run import plain_loader, start_detector
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.config import check_config
from edgeyolo.training.cross_batch_norm import CrossBatchNorm, use_cross_batch_norm
from edgeyolo.training.parts import statistics_kept
from edgeyolo.training.step import train_step

CONFIG = TrainConfig(
    model="yolov7-nano", epochs=1, image_size=64, batch=4, workers=0, precision="fp32", accumulate=2, device="cpu"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 4}, seed=1)
    return open_dataset(folder, "train")


def layer(like: nn.BatchNorm2d) -> CrossBatchNorm:
    return CrossBatchNorm(like.double())


def parts_of(sizes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shift = torch.arange(len(sizes)) * 3.0  # so that parts differ in what they are normalised by
    return [
        (torch.randn(n, 5, 4, 3, generator=generator) + step).double() for n, step in zip(sizes, shift, strict=True)
    ]


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (3, 1, 2)])
def test_a_part_is_normalised_with_those_before_it(sizes: tuple[int, ...]) -> None:
    """The whole and its gradients, against PyTorch's own normalisation of all parts so far put together."""
    plain = nn.BatchNorm2d(5, eps=1e-3, momentum=0.03)
    nn.init.normal_(plain.weight), nn.init.normal_(plain.bias)
    cross, seen = layer(plain), []
    for part in parts_of(sizes):
        mine, theirs = part.clone().requires_grad_(), part.clone().requires_grad_()
        out = cross(mine)
        together = F.batch_norm(torch.cat([*seen, theirs]), None, None, cross.weight, cross.bias, True, 0.0, 1e-3)
        wanted = together[-len(part) :]
        torch.testing.assert_close(out, wanted)
        above = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).double()
        for got, want in zip(
            torch.autograd.grad(out, (mine, cross.weight, cross.bias), above),
            torch.autograd.grad(wanted, (theirs, cross.weight, cross.bias), above),
            strict=True,
        ):
            torch.testing.assert_close(got, want)
        seen.append(part)


def test_a_batch_is_remembered_once() -> None:
    """As if it had been one; the next one starts anew."""
    plain, whole = nn.BatchNorm2d(5, momentum=0.03), nn.BatchNorm2d(5, momentum=0.03).double()
    cross = layer(plain)
    for seed in range(2):
        parts = [part + seed for part in parts_of((3, 1, 2))]
        for part in parts:
            cross(part)
        cross.start_batch()
        whole(torch.cat(parts))
        torch.testing.assert_close(cross.running_mean, whole.running_mean)
        torch.testing.assert_close(cross.running_var, whole.running_var)


def test_evaluation_and_a_pass_that_is_not_remembered() -> None:
    plain = nn.BatchNorm2d(5).double()
    cross, part = layer(plain), parts_of((3,))[0]
    before = cross.running_mean.clone()
    with statistics_kept(nn.Sequential(cross)):
        cross(part)
    assert torch.equal(cross.running_mean, before)
    assert torch.equal(cross.eval()(part), plain.eval()(part))
    assert cross.train()(part[:0]).shape == (0, 5, 4, 3)


def test_training_in_parts_goes_by_it(data: Dataset, tmp_path: Path) -> None:
    """Every layer is one, weights move, and the last part of a batch is normalised by all of it."""
    run = start_detector(msgspec.structs.replace(CONFIG, cross_batch_norm=True), data, tmp_path)
    layers = [m for m in run.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert layers and all(isinstance(m, CrossBatchNorm) for m in layers)
    run.start_training()
    run.job.start_epoch(0)
    first = next(m for m in run.model.modules() if isinstance(m, nn.Conv2d))
    before, seen = first.weight.detach().clone(), []
    first.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    momentum, old = layers[0].momentum, layers[0].running_mean.clone()
    train_step(run, next(iter(plain_loader(data, 4))))
    assert not torch.equal(first.weight, before)
    wanted = torch.lerp(old, torch.cat(seen[-2:]).float().mean((0, 2, 3)), momentum)
    torch.testing.assert_close(layers[0].running_mean, wanted)
    assert not layers[0]._parts


def test_it_needs_parts() -> None:
    with pytest.raises(UsageError, match="accumulate is 1"):
        check_config(msgspec.structs.replace(CONFIG, cross_batch_norm=True, accumulate=1))


def test_the_parameters_are_shared() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    names, weight = list(model.state_dict()), model[1].weight
    use_cross_batch_norm(model)
    assert list(model.state_dict()) == names and model[1].weight is weight
