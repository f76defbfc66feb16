"""DropBlock in training: in every family, for the trained network only, more of it in each epoch."""

from __future__ import annotations

import copy
from pathlib import Path

import msgspec
import pytest
import torch
from fresh_run import plain_loader, start_detector
from thin import SMALL

from edgeyolo import models
from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.nn.drop_block import DropBlock
from edgeyolo.spec.training import DropBlockConfig, TrainConfig
from edgeyolo.training.drop_block import attach_drop_block
from edgeyolo.training.step import backward, normalise

CONFIG = TrainConfig(
    model="yolov7-nano", epochs=4, image_size=64, precision="fp32", drop_block=DropBlockConfig(probability=0.4, size=1)
)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("place", ["backbone", "neck"])
def test_the_coarsest_maps_of_every_family_lose_blocks_in_training(name: str, place: str) -> None:
    network = models.create(name, 2)
    for module in network.modules():
        if isinstance(module, DropBlock):
            module.probability = 0.0  # the authors' own, which some families have
    plain = copy.deepcopy(network)
    settings = msgspec.structs.replace(CONFIG.drop_block, place=place)
    hook = attach_drop_block(network, msgspec.structs.replace(CONFIG, drop_block=settings))
    assert hook is not None
    hook.start_epoch(3)
    images = torch.rand(2, 3, 64, 64)
    shown: list[list[torch.Tensor]] = []
    for model in (network, plain):
        maps: list[torch.Tensor] = []

        def keep(_part: object, _inputs: object, output: list, maps: list = maps) -> None:
            maps += output if isinstance(output[0], torch.Tensor) else output[0]

        getattr(model, place).register_forward_hook(keep)
        model.train()(images)
        shown.append(maps)
    are_same = [torch.equal(mine, theirs) for mine, theirs in zip(*shown, strict=True)]
    assert are_same == [True] * (len(are_same) - 2) + [False] * min(2, len(are_same))
    mine, theirs = (maps[-2:][0] for maps in shown)
    assert (mine == 0)[theirs != 0].float().mean().item() == pytest.approx(0.4, abs=0.08)
    network.load_state_dict(plain.state_dict())
    for mine, theirs in zip(network.eval()(images), plain.eval()(images), strict=True):
        assert torch.equal(mine, theirs)


def test_the_probability_rises_in_a_line() -> None:
    hook = attach_drop_block(models.create("yolov7-nano", 2), CONFIG)
    assert hook is not None
    found = []
    for epoch in range(5):
        hook.start_epoch(epoch)
        found.append(hook.probability.item())
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert attach_drop_block(models.create("yolov7-nano", 2), TrainConfig(model="yolov7-nano")) is None


def test_both_walks_through_a_part_drop_the_same_blocks(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "drawn", {"train": 4}, seed=1)
    data = open_dataset(tmp_path / "drawn", "train")
    state = start_detector(msgspec.structs.replace(CONFIG, batch=4, accumulate=2, workers=0), data, tmp_path)
    state.start_training()
    state.job.start_epoch(3)
    shown: list[torch.Tensor] = []
    state.model.backbone.register_forward_hook(lambda _part, _inputs, output: shown.append(output[-1].detach()))
    batch = next(iter(plain_loader(data, 4)))
    backward(state, normalise(batch.images, state.job.spec.input), batch.targets)
    assert len(shown) == 4
    assert torch.equal(shown[0], shown[2]) and torch.equal(shown[1], shown[3])
    assert (shown[0] == 0).any() and not torch.equal(shown[0] == 0, shown[1] == 0)
