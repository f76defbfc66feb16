"""Losses of best anchors against plain ones, written number by number from the papers, in double precision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from edgeyolo.criteria.best_anchor import BestAnchorCriterion
from edgeyolo.criteria.ppyolo import PpYoloCriterion, PpYoloWeights
from edgeyolo.criteria.region import RegionCriterion
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import AnchorDecode

K, IMAGE_HW = 3, (64, 96)
ANCHORS = (((8.0, 10.0), (14.0, 9.0)), ((30.0, 24.0), (20.0, 44.0), (60.0, 55.0)))
PLAIN = AnchorDecode(strides=(8, 16), anchors_wh=ANCHORS, size="exp", reach=(1.05, 1.05))
AWARE = AnchorDecode(strides=(8, 16), anchors_wh=ANCHORS, size="exp", reach=(1.05, 1.05), iou_power=0.4)
SOFT = AnchorDecode(strides=(16,), anchors_wh=ANCHORS[1:], size="exp", reach=(1.0,), classes="softmax")
TARGETS = [  # the second and third share cell and anchor, the last has no area; the picture in the middle has none
    (0, 1, 10.0, 8.0, 60.0, 50.0),
    (0, 2, 40.0, 30.0, 48.0, 40.0),
    (0, 0, 40.5, 30.0, 49.0, 40.0),
    (2, 0, 70.0, 5.0, 96.0, 60.0),
    (2, 2, 2.0, 3.0, 15.0, 12.0),
    (2, 1, 30.0, 30.0, 30.0, 40.0),
]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union


@dataclass
class Prediction:
    """One anchor in one cell."""

    level: int
    anchor: int
    row: int
    column: int
    t: list[float]
    judged: float | None

    def box(self, decode: AnchorDecode) -> tuple[float, float, float, float]:
        stride, g = decode.strides[self.level], decode.reach[self.level]
        cx = (g * sigmoid(self.t[0]) - (g - 1) / 2 + self.column) * stride
        cy = (g * sigmoid(self.t[1]) - (g - 1) / 2 + self.row) * stride
        w, h = (math.exp(self.t[2 + i]) * decode.anchors_wh[self.level][self.anchor][i] for i in range(2))
        return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def read_predictions(maps: list[torch.Tensor], picture: int, decode: AnchorDecode) -> dict[tuple, Prediction]:
    found = {}
    for level, raw in enumerate(maps):
        count = len(decode.anchors_wh[level])
        for a in range(count):
            for row in range(raw.shape[2]):
                for column in range(raw.shape[3]):
                    values = raw[picture, :, row, column].tolist()
                    lead = count if decode.iou_power else 0
                    t = values[lead + a * (5 + K) : lead + (a + 1) * (5 + K)]
                    judged = values[a] if lead else None
                    found[level, a, row, column] = Prediction(level, a, row, column, t, judged)
    return found


def answers_of(objects: list[tuple], decode: AnchorDecode) -> dict[tuple, list[tuple]]:
    """Place of a prediction -> the objects that it answers for, in their order."""
    answers: dict[tuple, list[tuple]] = {}
    for thing in objects:
        _, _, x1, y1, x2, y2 = thing
        w, h = x2 - x1, y2 - y1
        if w <= 0 or h <= 0:
            continue
        shapes = {
            (level, a): min(w, aw) * min(h, ah) / (w * h + aw * ah - min(w, aw) * min(h, ah))
            for level, anchors in enumerate(decode.anchors_wh)
            for a, (aw, ah) in enumerate(anchors)
        }
        level, a = max(shapes, key=shapes.__getitem__)
        stride = decode.strides[level]
        answers.setdefault((level, a, int((y1 + y2) / 2 / stride), int((x1 + x2) / 2 / stride)), []).append(thing)
    return answers


def plain_ppyolo(maps: list[torch.Tensor], decode: AnchorDecode, weights: PpYoloWeights) -> dict[str, float]:
    parts = dict.fromkeys(("xy", "wh", "iou", "objectness", "class", "overlap"), 0.0)
    for picture in range(len(maps[0])):
        objects = [thing for thing in TARGETS if thing[0] == picture]
        real = [thing[2:] for thing in objects if thing[4] > thing[2]]
        answers = answers_of(objects, decode)
        for place, p in read_predictions(maps, picture, decode).items():
            box = p.box(decode)
            if place not in answers:
                if all(overlap(box, thing) <= weights.ignore for thing in real):
                    parts["objectness"] -= math.log(1 - sigmoid(p.t[4]))
                continue
            _, _, x1, y1, x2, y2 = answers[place][-1]
            stride, (aw, ah) = decode.strides[p.level], decode.anchors_wh[p.level][p.anchor]
            scale = 2 - (x2 - x1) * (y2 - y1) / (IMAGE_HW[0] * IMAGE_HW[1])
            cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            parts["xy"] += scale * (abs(cx - (x1 + x2) / 2) + abs(cy - (y1 + y2) / 2)) / stride
            parts["wh"] += scale * (abs(p.t[2] - math.log((x2 - x1) / aw)) + abs(p.t[3] - math.log((y2 - y1) / ah)))
            quality = overlap(box, (x1, y1, x2, y2))
            parts["iou"] += weights.iou * scale * (1 - quality**2)
            parts["objectness"] -= math.log(sigmoid(p.t[4]))
            classes = {thing[1] for thing in answers[place]}
            for k in range(K):
                share = sigmoid(p.t[5 + k])
                parts["class"] -= math.log(share if k in classes else 1 - share)
            if p.judged is not None:
                said = sigmoid(p.judged)
                parts["overlap"] -= weights.aware * (quality * math.log(said) + (1 - quality) * math.log(1 - said))
    return {name: part / len(maps[0]) for name, part in parts.items()}


def plain_region(maps: list[torch.Tensor], decode: AnchorDecode, *, warm: bool) -> dict[str, float]:
    parts = dict.fromkeys(("box", "objectness", "class", "anchor"), 0.0)
    for picture in range(len(maps[0])):
        objects = [thing for thing in TARGETS if thing[0] == picture]
        real = [thing[2:] for thing in objects if thing[4] > thing[2]]
        answers = answers_of(objects, decode)
        for place, p in read_predictions(maps, picture, decode).items():
            box, sure = p.box(decode), sigmoid(p.t[4])
            if place not in answers:
                if all(overlap(box, thing) <= 0.6 for thing in real):
                    parts["objectness"] += sure**2 / 2
                    if warm:
                        parts["anchor"] += 0.005 * sum((sigmoid(v) - 0.5) ** 2 for v in p.t[:2])
                        parts["anchor"] += 0.005 * (p.t[2] ** 2 + p.t[3] ** 2)
                continue
            _, _, x1, y1, x2, y2 = answers[place][-1]
            scale = 2 - (x2 - x1) * (y2 - y1) / (IMAGE_HW[0] * IMAGE_HW[1])
            aw, ah = decode.anchors_wh[p.level][p.anchor]
            offsets = (sigmoid(p.t[0]) + p.column - (x1 + x2) / 32, sigmoid(p.t[1]) + p.row - (y1 + y2) / 32)
            growth = (p.t[2] - math.log((x2 - x1) / aw), p.t[3] - math.log((y2 - y1) / ah))
            parts["box"] += scale / 2 * sum(v**2 for v in (*offsets, *growth))
            parts["objectness"] += 2.5 * (overlap(box, (x1, y1, x2, y2)) - sure) ** 2
            whole = sum(math.exp(v) for v in p.t[5:])
            named = [thing[1] for thing in answers[place]]
            parts["class"] -= sum(math.log(math.exp(p.t[5 + k]) / whole) for k in set(named)) / len(set(named))
    return {name: part / len(maps[0]) for name, part in parts.items()}


def make_maps(decode: AnchorDecode, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lead = 6 if decode.iou_power else 5
    return [
        torch.randn(3, len(anchors) * (lead + K), IMAGE_HW[0] // s, IMAGE_HW[1] // s, generator=generator)
        for anchors, s in zip(decode.anchors_wh, decode.strides, strict=True)
    ]


def parts_of(
    criterion: BestAnchorCriterion, maps: list[torch.Tensor], targets: list[tuple] = TARGETS
) -> dict[str, float]:
    loss = criterion(maps, torch.tensor(targets), IMAGE_HW)
    assert loss.total.item() == pytest.approx(sum(part.item() for part in loss.parts.values()), rel=1e-5)
    return {name: part.item() for name, part in loss.parts.items()}


@pytest.mark.parametrize("decode", [PLAIN, AWARE], ids=["plain", "aware"])
@pytest.mark.parametrize("ignore", [0.3, 0.7])
def test_the_loss_of_ppyolo_is_what_the_papers_say(decode: AnchorDecode, ignore: float) -> None:
    weights, maps = PpYoloWeights(ignore=ignore, iou=2.5, aware=0.5), make_maps(decode)
    expected = plain_ppyolo(maps, decode, weights)
    if not decode.iou_power:
        del expected["overlap"]
    assert parts_of(PpYoloCriterion(decode, K, weights), maps) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_loss_of_yolov2_is_what_the_paper_says(epoch: int) -> None:
    maps, criterion = make_maps(SOFT), RegionCriterion(SOFT, K, warm_epochs=1)
    criterion.start_epoch(epoch)
    expected = plain_region(maps, SOFT, warm=epoch == 0)
    if epoch:
        del expected["anchor"]
    assert parts_of(criterion, maps) == pytest.approx(expected, rel=1e-4)


def test_a_good_prediction_that_answers_for_nothing_is_left_alone() -> None:
    maps = [raw.zero_() for raw in make_maps(PLAIN)]
    criterion = PpYoloCriterion(PLAIN, K, PpYoloWeights(ignore=0.5))
    thing = [(0, 0, 33.0, 17.0, 63.0, 41.0)]  # of the first coarse anchor's size, in the cell of row 1 and column 3
    cells = 3 * sum(len(a) * (64 // s) * (96 // s) for a, s in zip(ANCHORS, (8, 16), strict=True))
    alone = parts_of(criterion, maps, thing)["objectness"]
    assert alone == pytest.approx(cells * math.log(2) / 3, rel=1e-5)
    maps[1][0, 0, 1, 2] = 30.0  # the tx to the left of it, whose box then overlaps by more than the limit
    moved = parts_of(criterion, maps, thing)["objectness"]
    assert moved == pytest.approx((cells - 1) * math.log(2) / 3, rel=1e-5)


@pytest.mark.parametrize("criterion", [PpYoloCriterion(AWARE, K, PpYoloWeights()), RegionCriterion(SOFT, K)])
def test_a_batch_without_objects_has_a_loss_and_gradients(criterion: BestAnchorCriterion) -> None:
    maps = [raw.requires_grad_() for raw in make_maps(criterion.decode)]
    loss = criterion(maps, torch.zeros(0, 6), IMAGE_HW)
    loss.total.backward()
    assert loss.total.isfinite() and all(raw.grad is not None and raw.grad.isfinite().all() for raw in maps)
    assert {name for name, part in loss.parts.items() if part} <= {"objectness", "anchor"}


def test_choices_that_make_no_sense_are_refused() -> None:
    for choose in (
        lambda: RegionCriterion(SOFT, K).choose_box_loss("ciou", None),
        lambda: RegionCriterion(SOFT, K).choose_class_loss("bce"),
        lambda: PpYoloCriterion(PLAIN, K, PpYoloWeights()).choose_class_loss("varifocal"),
    ):
        with pytest.raises(UsageError, match="this model"):
            choose()
    RegionCriterion(SOFT, K).choose_box_loss(None, None)
