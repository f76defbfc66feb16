"""Distillation: nothing to learn from an equal, gradients reach the student alone, any pair of the zoo works."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeyolo import models
from edgeyolo.heads import raw_head_of
from edgeyolo.models import DetectorNetwork
from edgeyolo.nn.fold import fold_model
from edgeyolo.spec.errors import CheckpointError, UsageError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.training import DistillConfig, TrainConfig
from edgeyolo.training.checkpoint import CheckpointRecord, save_checkpoint
from edgeyolo.training.distillation import Distiller, channel_divergence, renormalise, standardised, watch_neck
from edgeyolo.training.head_distillation import _join, _places, make_head_loss
from edgeyolo.training.teacher import anchors_of_checkpoint, make_distiller

HW = (64, 64)
BOTH = DistillConfig()


def network(name: str, seed: int = 0, classes: int = 3) -> DetectorNetwork:
    """In eval mode, with statistics of its own activations, so that what it says depends on its pictures."""
    torch.manual_seed(seed)
    model = models.create(name, classes).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    for head in (m for n, m in model.named_modules() if n.endswith("box_logits")):  # which starts at zero
        nn.init.normal_(head.weight, std=0.1)
    with torch.no_grad():
        model(torch.rand(2, 3, 128, 128))
    return model.eval()


def hook_count(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) for m in module.modules())


def run(distiller: Distiller, student: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    with watch_neck(student) as features:
        maps = student(images)
    loss = distiller.loss(distiller.adapted(features), maps, torch.zeros(0, 6), images)
    return loss.total, loss.parts


@pytest.mark.parametrize("name", ["yolov7-nano", "ppyoloe-s"])
def test_identical_networks_have_nothing_to_learn(name: str) -> None:
    student = network(name)
    teacher = fold_model(student).requires_grad_(False)
    images = torch.rand(2, 3, *HW)
    total, parts = run(Distiller(student, teacher, settings=BOTH, image_hw=HW), student, images)
    assert set(parts) >= {"distill_feature", "distill_score", "distill_box"}
    assert float(total.detach()) == pytest.approx(0, abs=1e-5)
    other = network(name, seed=1)
    total, parts = run(Distiller(other, teacher, settings=BOTH, image_hw=HW), other, images)
    assert all(float(part) > 1e-5 for part in parts.values()), parts
    assert float(total.detach()) == pytest.approx(sum(map(float, parts.values())), rel=1e-5)


def test_gradients_reach_student_and_adapters_and_nothing_else() -> None:
    student, teacher = network("yolov7-nano"), network("yolov7-tiny", 1)
    before = copy.deepcopy(teacher.state_dict())
    distiller = Distiller(student, teacher.requires_grad_(False), settings=BOTH, image_hw=HW)
    assert [type(a) for a in distiller.adapters] == [nn.Conv2d] * 3
    assert {id(p) for p in distiller.parameters()} == {id(a.weight) for a in distiller.adapters}
    assert set(distiller.state_dict()) == {f"adapters.{i}.weight" for i in range(3)}
    student.train()
    total, _ = run(distiller, student, torch.rand(2, 3, *HW))
    total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[n], t) for n, t in teacher.state_dict().items())
    for module in (*distiller.adapters, student.backbone, student.neck, student.head):
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize(
    ("student", "teacher", "levels", "heads"),
    [
        ("yolov7-nano", "yolov7-tiny", 3, True),
        ("yolov7-nano", "yolov7", 3, False),  # other anchors
        ("yolov7-nano", "ppyoloe-s", 3, False),
        ("ppyoloe-s", "ppyoloe-m", 3, True),
        ("ppyoloe-s", "yolov7-tiny", 3, False),
        ("yolov7-nano", "yolov7-w6", 3, False),  # four levels, auxiliary heads
        ("yolov7-w6", "yolov7-nano", 3, False),
    ],
)
def test_any_pair_of_the_zoo(student: str, teacher: str, levels: int, heads: bool) -> None:
    pair = network(student), network(teacher, 1).requires_grad_(False)
    distiller = Distiller(*pair, settings=BOTH, image_hw=HW)
    assert len(distiller.adapters) == levels
    assert ("and its heads" in distiller.describe()) == heads
    total, parts = run(distiller, pair[0].train(), torch.rand(2, 3, *HW))
    assert ("distill_box" in parts) == heads and bool(torch.isfinite(total)) and float(total.detach()) > 0


def test_no_hook_stays_on_a_network() -> None:
    student, teacher = network("yolov7-nano"), network("ppyoloe-s")
    distiller = Distiller(student, teacher, settings=BOTH, image_hw=HW)
    run(distiller, student, torch.rand(1, 3, *HW))
    with pytest.raises(RuntimeError), watch_neck(student):
        student(torch.rand(1, 3, 33, 33, 1))
    assert hook_count(student) == hook_count(teacher) == 0


def test_making_a_distiller_changes_neither_network() -> None:
    student, teacher = network("yolov7-nano").train(), network("yolov7-tiny")
    before = copy.deepcopy(student.state_dict())
    Distiller(student, teacher, settings=BOTH, image_hw=HW)
    assert student.training and not teacher.training
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())


def test_other_classes_leave_the_heads_out() -> None:
    student, teacher = network("yolov7-nano"), network("yolov7-tiny", classes=5)
    _, parts = run(
        Distiller(student, teacher, settings=BOTH, image_hw=HW, same_classes=False), student, torch.rand(1, 3, *HW)
    )
    assert set(parts) == {"distill_feature"}


@pytest.mark.parametrize("off", ["feature", "head"])
def test_a_weight_of_zero_switches_a_part_off(off: str) -> None:
    student, teacher = network("yolov7-nano"), network("yolov7-tiny", 1)
    settings = DistillConfig(**{off: 0.0})
    _, parts = run(Distiller(student, teacher, settings=settings, image_hw=HW), student, torch.rand(1, 3, *HW))
    assert ("distill_feature" in parts) == (off == "head") and ("distill_box" in parts) == (off == "feature")


@pytest.mark.parametrize("bad", [{"feature": -1.0}, {"temperature": 0.0}, {"feature": 0.0, "head": 0.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="distill"):
        Distiller(network("yolov7-nano"), network("yolov7-nano"), settings=DistillConfig(**bad), image_hw=HW)


def test_a_teacher_for_other_sizes_is_refused() -> None:
    with pytest.raises(UsageError, match="64"):
        Distiller(network("yolov7-nano"), network("yolov7-w6"), settings=BOTH, image_hw=(96, 96))


def test_channel_divergence_is_the_published_formula() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 2, 3, 4, 5))
    tau, expected = 3.0, 0.0
    for b in range(2):
        for c in range(3):
            mine, theirs = np.exp(student[b, c] / tau), np.exp(teacher[b, c] / tau)
            mine, theirs = mine / mine.sum(), theirs / theirs.sum()
            expected += tau**2 * (theirs * np.log(theirs / mine)).sum() / 6
    found = channel_divergence(torch.tensor(student), torch.tensor(teacher), tau)
    assert found.shape == (2,)
    assert float(found.mean()) == pytest.approx(expected, rel=1e-6)


def test_a_temperature_of_each_channel_is_its_standard_deviation_over_the_batch() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 4, 3, 4, 5)) * np.array([0.3, 2.0, 7.0])[:, None, None]
    expected = 0.0
    for c in range(3):
        means = [(x[:, c].mean(), np.sqrt(x[:, c].var() + 1e-5)) for x in (student, teacher)]
        for b in range(4):
            mine, theirs = (
                np.exp((x[b, c] - mean) / deviation)
                for x, (mean, deviation) in zip((student, teacher), means, strict=True)
            )
            mine, theirs = mine / mine.sum(), theirs / theirs.sum()
            expected += (theirs * np.log(theirs / mine)).sum() / 12
    pair = [standardised(torch.tensor(x)) for x in (student, teacher)]
    assert float(channel_divergence(*pair, 1.0).mean()) == pytest.approx(expected, rel=1e-6)
    assert standardised(torch.zeros(0, 3, 4, 5)).shape == (0, 3, 4, 5)


def test_dynamic_temperature_does_not_see_how_large_channels_are() -> None:
    student, teacher = network("yolov7-nano"), network("yolov7-nano", 1)
    images = torch.rand(2, 3, *HW)
    settings = DistillConfig(head=0.0, dynamic_temperature=True)
    distiller = Distiller(student, teacher, settings=settings, image_hw=HW)
    with watch_neck(student) as features, torch.no_grad():
        maps = student(images)
    losses = [
        distiller.loss([factor * f for f in features], maps, torch.zeros(0, 6), images).total.item()
        for factor in (1.0, 50.0)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2) and losses[0] > 0


def test_alignment_is_learned_where_channels_agree_too() -> None:
    pair = network("yolov7-nano"), network("yolov7-nano", 1)
    for align, kind in ((False, nn.Identity), (True, nn.Conv2d)):
        settings = DistillConfig(align=align)
        adapters = Distiller(*pair, settings=settings, image_hw=HW).adapters
        assert all(type(adapter) is kind for adapter in adapters)


def test_the_teacher_counts_less_and_less_and_leaves() -> None:
    student, teacher = network("yolov7-nano"), network("yolov7-tiny", 1)
    settings = DistillConfig(final_weight_factor=0.1)
    distiller = Distiller(student, teacher, settings=settings, image_hw=HW, epochs=4)
    images = torch.rand(2, 3, *HW)
    totals = []
    for epoch in range(5):
        distiller.start_epoch(epoch)
        total, parts = run(distiller, student, images)
        totals.append(float(total.detach()))
        assert bool(parts) == (epoch < 4)
    shares = [1 - 0.9 * (1 - math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert totals == pytest.approx([totals[0] * share for share in (*shares, 0.0)], rel=1e-5)


def test_the_boxes_compared_are_those_that_the_runtime_decodes() -> None:
    rng = np.random.default_rng(1)
    spec = network("yolov7-nano").decode
    maps = [rng.normal(0, 2, (1, 3 * 8, 64 // s, 64 // s)).astype(np.float32) for s in spec.strides]
    tensors = [torch.from_numpy(m) for m in maps]
    head = raw_head_of(spec)
    said = _join(head.predictions(tensors))
    every = torch.arange(said.boxes.shape[1])[None]
    boxes = head.boxes_xyxy(said.boxes, _places(tensors, head, every), torch)[0].numpy()
    scores = (said.objectness.sigmoid() * said.classes.sigmoid().amax(-1))[0].numpy()
    expected, expected_scores, _ = head.decode([m[0] for m in maps], score_threshold=0.0)
    mine, theirs = np.argsort(scores), np.argsort(expected_scores)
    np.testing.assert_allclose(scores[mine], expected_scores[theirs], rtol=1e-4)
    np.testing.assert_allclose(boxes[mine], expected[theirs], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["yolov7-nano", "ppyoloe-s"])
def test_the_head_loss_of_a_picture_does_not_depend_on_the_others(name: str) -> None:
    """So that it does not matter how a batch is spread over processes."""
    student, teacher = network(name), network(name, 1)
    images = torch.rand(3, 3, *HW)
    parts = make_head_loss(student.decode)
    with torch.no_grad():
        mine, theirs = student(images), teacher(images)
        whole = parts(mine, theirs)
        single = [parts([m[i : i + 1] for m in mine], [t[i : i + 1] for t in theirs]) for i in range(3)]
    for key, value in whole.items():
        assert value.tolist() == pytest.approx([float(s[key]) for s in single], rel=1e-5)


def test_the_teacher_sees_the_picture_as_it_was_trained() -> None:
    yolo, ppyoloe = (network(name).make_input_spec(HW) for name in ("yolov7-nano", "ppyoloe-s"))
    pixels = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (ppyoloe.mean, ppyoloe.std))
    torch.testing.assert_close(renormalise(pixels, yolo, ppyoloe), (pixels - mean) / std)
    torch.testing.assert_close(renormalise((pixels - mean) / std, ppyoloe, yolo), pixels)


def test_a_student_learns_what_it_is_taught() -> None:
    student, teacher = network("yolov7-nano").train(), network("yolov7-tiny", 1).requires_grad_(False)
    distiller = Distiller(student, teacher, settings=BOTH, image_hw=HW)
    optimizer = torch.optim.AdamW([*student.parameters(), *distiller.parameters()], lr=1e-3)
    images = torch.rand(2, 3, *HW)
    losses = []
    for _ in range(12):
        total, _ = run(distiller, student, images)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_neck_that_is_watched_gives_the_maps_of_the_heads() -> None:
    for name in ("yolov7-nano", "yolov7-w6", "ppyoloe-s"):
        model = network(name)
        with watch_neck(model) as maps:
            model(torch.rand(1, 3, *HW))
        assert [HW[0] // m.shape[2] for m in maps] == list(model.strides)


def spec_of(model: DetectorNetwork) -> ModelSpec:
    return ModelSpec(
        name=model.config.name,
        activation=model.config.activation,
        class_names=tuple("abcdefg"[: model.config.num_classes]),
        input=model.make_input_spec(HW),
        decode=model.decode,
    )


def test_a_teacher_comes_from_a_checkpoint(tmp_path: Path) -> None:
    student, teacher = network("yolov7-nano"), network("yolov7-tiny", 1)
    record = CheckpointRecord(model=spec_of(teacher), config=TrainConfig(model="yolov7-tiny"), data="d", epoch=1)
    weights = {f"model.{name}": tensor for name, tensor in teacher.state_dict().items()}
    save_checkpoint(tmp_path / "best.safetensors", weights, record)
    distiller = make_distiller(tmp_path, student, spec_of(student), BOTH, torch.device("cpu"), epochs=1)
    images = torch.rand(2, 3, *HW)
    expected, _ = run(_with(Distiller(student, teacher, settings=BOTH, image_hw=HW), distiller), student, images)
    found, _ = run(distiller, student, images)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-3)
    assert "and its heads" in distiller.describe()
    other = network("yolov7-nano", classes=2)
    assert (
        "not its heads"
        in make_distiller(tmp_path, other, spec_of(other), BOTH, torch.device("cpu"), epochs=1).describe()
    )
    assert anchors_of_checkpoint(tmp_path, "yolov7") == teacher.decode.anchors_wh != models.anchors_of("yolov7")
    assert anchors_of_checkpoint(tmp_path, "yolov7-w6") is anchors_of_checkpoint(tmp_path, "ppyoloe-s") is None
    with pytest.raises(CheckpointError):
        make_distiller(tmp_path / "none", student, spec_of(student), BOTH, torch.device("cpu"), epochs=1)


def _with(distiller: Distiller, adapters_of: Distiller) -> Distiller:
    distiller.load_state_dict(adapters_of.state_dict())
    return distiller
