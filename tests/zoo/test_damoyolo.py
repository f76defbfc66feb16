"""DAMO-YOLO: it learns, and its neck mixes levels in its authors' order."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from edgeyolo.models.damoyolo import VARIANTS, Network

TARGETS = torch.tensor([[0.0, 0, 6, 8, 40, 50], [0, 1, 30, 20, 60, 60], [1, 2, 4, 30, 30, 62]])


def small(name: str) -> Network:
    torch.manual_seed(0)
    return Network(dataclasses.replace(VARIANTS[name], num_classes=3))


@pytest.mark.parametrize(("name", "steps"), [("damo-ns", 32), pytest.param("damo-t", 12, marks=pytest.mark.slow)])
def test_learns_two_pictures_by_heart(name: str, steps: int) -> None:
    """Boxes are weighted by the scores that the network gives: their loss grows at first, so overlaps are measured."""
    model = small(name).train()
    criterion = model.make_criterion()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    images = torch.rand(2, 3, 64, 64) * 255
    classes, overlaps = [], []
    for _ in range(steps):
        maps = model(images)
        loss = criterion(maps, TARGETS, (64, 64))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        classes.append(loss.parts["class"].item())
        overlaps.append(criterion.match(maps, criterion.make_grid(maps), TARGETS).iou.mean().item())
    assert classes[-1] < 0.3 * max(classes)
    assert overlaps[-1] > 0.7 > overlaps[0] + 0.1


def test_a_level_comes_first_in_the_neck_then_the_finer_one_then_the_coarser_one() -> None:
    model = small("damo-ns").eval()
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.neck.named_children():
        module.register_forward_hook(
            lambda _m, inputs, out, name=name: seen.update({f"{name} in": inputs[0], name: out})
        )
    with torch.no_grad():
        features = model.backbone(torch.rand(1, 3, 64, 64) * 255)
        outs = model.neck(features)
    at_8, at_16, at_32 = features
    up = torch.nn.Upsample(scale_factor=2.0)
    for name, parts in {
        "middle_32": (at_32, seen["down_16"]),
        "middle_16": (at_16, seen["down_8"], up(seen["middle_32"])),
        "mix_8": (at_8, up(seen["middle_16"])),
        "mix_16": (seen["middle_16"], seen["out_down_8"]),
        "mix_32": (seen["middle_32"], seen["middle_down_16"], seen["out_down_16"]),
    }.items():
        torch.testing.assert_close(seen[f"{name} in"], torch.cat(parts, dim=1))
    assert [out is seen[name] for out, name in zip(outs, ("mix_8", "mix_16", "mix_32"), strict=True)] == [True] * 3
