"""The batched assignment against loops over pictures, objects and candidates in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from edgeyolo.assigners.ota import OtaRules, anchor_boxes, assign_ota, read_cells
from edgeyolo.spec.model import AnchorDecode

DECODE = AnchorDecode(
    strides=(8, 16, 32),
    anchors_wh=(
        ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
        ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
        ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
    ),
)
CLASSES = 4


def make_maps(pictures, image_hw, seed, scale=1.5, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(pictures, 3, 5 + classes, image_hw[0] // s, image_hw[1] // s) for s in DECODE.strides]
    return [torch.randn(shape, generator=generator) * scale for shape in shapes]


def make_targets(counts, image_hw, seed, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for picture, count in enumerate(counts):
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([image_hw[1], image_hw[0]])
        size = torch.exp(torch.rand(count, 2, generator=generator) * 3.5 + 1.5)
        label = torch.randint(0, classes, (count, 1), generator=generator).float()
        rows.append(torch.cat([torch.full((count, 1), picture), label, centre - size / 2, centre + size / 2], dim=1))
    order = torch.randperm(sum(counts), generator=generator)
    return torch.cat(rows)[order]


def sigmoid(value):
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def reference_entries(maps, target, rules):
    """(level, neighbour, anchor, row, column) of one object: its centre's cell, and of the centre moved by `reach`."""
    found = []
    x1, y1, x2, y2 = target[2:]
    for level, stride in enumerate(DECODE.strides):
        height, width = maps[level].shape[3:]
        x, y = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
        spots = [(0, x, y)]
        if x % 1 < rules.reach and x > 1:
            spots.append((1, x - rules.reach, y))
        if y % 1 < rules.reach and y > 1:
            spots.append((2, x, y - rules.reach))
        if (width - x) % 1 < rules.reach and width - x > 1:
            spots.append((3, x + rules.reach, y))
        if (height - y) % 1 < rules.reach and height - y > 1:
            spots.append((4, x, y + rules.reach))
        for anchor, (aw, ah) in enumerate(DECODE.anchors_wh[level]):
            ratios = [(x2 - x1) / aw, (y2 - y1) / ah]
            if min(ratios) <= 0 or max(max(r, 1 / r) for r in ratios) >= rules.shape_ratio:
                continue
            for neighbour, sx, sy in spots:
                column, row = min(max(math.floor(sx), 0), width - 1), min(max(math.floor(sy), 0), height - 1)
                found.append((level, neighbour, anchor, row, column))
    return found


def reference_box(values, candidate):
    level, anchor, row, column = candidate
    stride, (aw, ah) = DECODE.strides[level], DECODE.anchors_wh[level][anchor]
    sx, sy, sw, sh = (sigmoid(v) for v in values[:4])
    x, y = (2 * sx - 0.5 + column) * stride, (2 * sy - 0.5 + row) * stride
    w, h = (2 * sw) ** 2 * aw, (2 * sh) ** 2 * ah
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def reference_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union


def reference_cost(values, label, overlap):
    cost = -3 * math.log(overlap + 1e-8)
    for k, value in enumerate(values[5:]):
        p = math.sqrt(sigmoid(value) * sigmoid(values[4]))
        cost -= math.log(p) if k == label else math.log(1 - p)
    return cost


def reference_assignment(maps, targets, rules):
    """[(level, picture, anchor, row, column, target)] of every entry that is taken, in order."""
    matched = []
    rows = targets.double().tolist()
    for picture in range(maps[0].shape[0]):
        here = [i for i, t in enumerate(rows) if t[0] == picture]
        entries = sorted((*e[:3], i, *e[3:]) for i in here for e in reference_entries(maps, rows[i], rules))
        cells = [(level, anchor, row, column) for level, _, anchor, _, row, column in entries]
        objects = [i for i in here if rows[i][4] > rows[i][2] and rows[i][5] > rows[i][3] and entries]
        values = [maps[lv][picture, a, :, y, x].double().tolist() for lv, a, y, x in cells]
        boxes = [reference_box(v, c) for v, c in zip(values, cells, strict=True)]
        overlaps = {i: [reference_iou(rows[i][2:], box) for box in boxes] for i in objects}
        cost = {
            i: [reference_cost(v, int(rows[i][1]), o) for v, o in zip(values, overlaps[i], strict=True)]
            for i in objects
        }
        takers = {}
        for i in objects:
            quota = max(1, int(sum(sorted(overlaps[i], reverse=True)[: rules.top])))
            for c in sorted(range(len(cells)), key=cost[i].__getitem__)[:quota]:
                takers.setdefault(c, []).append(i)
        for c, claimants in sorted(takers.items()):
            winner = claimants[0] if len(claimants) == 1 else min(objects, key=lambda i, c=c: cost[i][c])
            level, *cell = cells[c]
            matched.append((level, picture, *cell, winner))
    return matched


def matches_as_list(matches):
    c = matches.cells
    return [tuple(r) for r in torch.stack([c.level, c.picture, c.anchor, c.row, c.column, matches.target], 1).tolist()]


@pytest.mark.parametrize("rules", [OtaRules(), OtaRules(top=20), OtaRules(top=20, reach=1.0)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("counts", [(1,), (5, 0, 9), (40, 3)])
def test_random_batches_match_the_loops(rules, seed, counts):
    maps = make_maps(len(counts), (96, 160), seed)
    targets = make_targets(counts, (96, 160), seed)
    expected = reference_assignment(maps, targets, rules)
    assert matches_as_list(assign_ota(maps, targets, DECODE, rules)) == expected
    assert expected


def test_good_predictions_get_more_than_one_cell_each():
    """With boxes that agree with the objects k is well above 1, so that the quota is really exercised."""
    maps = make_maps(1, (96, 96), 0, scale=0.05)
    targets = torch.tensor([[0, 1, 20.0, 20.0, 50.0, 45.0], [0, 2, 30.0, 22.0, 60.0, 47.0]])
    matches = matches_as_list(assign_ota(maps, targets, DECODE, OtaRules()))
    assert matches == reference_assignment(maps, targets, OtaRules())
    assert len(matches) >= 4


def test_three_hundred_objects_match_the_loops():
    maps = make_maps(1, (128, 128), 7)
    targets = make_targets((300,), (128, 128), 7)
    assert matches_as_list(assign_ota(maps, targets, DECODE, OtaRules())) == reference_assignment(
        maps, targets, OtaRules()
    )


def test_chunks_do_not_change_the_result(monkeypatch):
    maps, targets = make_maps(2, (96, 96), 3), make_targets((30, 20), (96, 96), 3)
    whole = matches_as_list(assign_ota(maps, targets, DECODE, OtaRules()))
    monkeypatch.setattr("edgeyolo.assigners.ota._CHUNK_ELEMENTS", 100)
    assert matches_as_list(assign_ota(maps, targets, DECODE, OtaRules())) == whole


def test_no_objects_gives_no_matches():
    assert matches_as_list(assign_ota(make_maps(2, (64, 64), 0), torch.zeros(0, 6), DECODE, OtaRules())) == []


ADVERSARIAL = {
    "identical boxes, other classes": [[0, 0, 10, 10, 40, 50], [0, 1, 10, 10, 40, 50], [0, 2, 10, 10, 40, 50]],
    "identical objects": [[0, 0, 10, 10, 40, 50], [0, 0, 10, 10, 40, 50]],
    "centre outside the picture": [[0, 0, -40, -40, 10, 10], [0, 1, 90, 20, 140, 70], [0, 2, 80, 90, 130, 150]],
    "smaller than a cell": [[0, 1, 33, 33, 37, 38], [0, 1, 40.5, 17, 45, 23]],
    "fits no anchor": [[0, 1, 33, 33, 34, 34], [0, 1, 0, 50, 96, 51], [0, 0, 20, 20, 50, 50]],
    "no area": [[0, 1, 33, 33, 33, 60], [0, 1, 20, 20, 20, 20], [0, 0, 20, 20, 50, 50]],
    "centre on cell edges": [
        [0, 1, 16, 16, 48, 48],
        [0, 1, 24, 24, 40, 40],
        [0, 3, 0, 0, 96, 96],
        [0, 2, 4, 4, 20, 20],
    ],
    "the whole picture": [[0, 1, 0, 0, 96, 96]],
}


@pytest.mark.parametrize("rules", [OtaRules(), OtaRules(top=20, reach=1.0)])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_objects_match_the_loops(name, rules):
    maps, targets = make_maps(2, (96, 96), 11), torch.tensor(ADVERSARIAL[name], dtype=torch.float32)
    assert matches_as_list(assign_ota(maps, targets, DECODE, rules)) == reference_assignment(maps, targets, rules)


@pytest.mark.parametrize("extreme", [1e4, -1e4, 80.0, -80.0])
def test_extreme_predictions_still_give_each_object_its_own_candidates(extreme):
    maps = [torch.full_like(m, extreme) for m in make_maps(2, (96, 96), 0)]
    targets = make_targets((6, 2), (96, 96), 5)
    matches = assign_ota(maps, targets, DECODE, OtaRules())
    found = matches_as_list(matches)
    assert found
    assert torch.equal(matches.cells.picture, targets[matches.target, 0].long())
    candidates = {
        (lv, int(t[0]), a, y, x) for t in targets.tolist() for lv, _, a, y, x in reference_entries(maps, t, OtaRules())
    }
    assert {row[:5] for row in found} <= candidates


def test_an_object_is_judged_in_its_own_picture_only():
    """A batch is the union of its pictures."""
    maps, targets = make_maps(3, (96, 96), 2), make_targets((6, 9, 4), (96, 96), 2)
    whole = matches_as_list(assign_ota(maps, targets, DECODE, OtaRules()))
    apart = []
    for picture in range(3):
        rows = (targets[:, 0] == picture).nonzero()[:, 0]
        alone = targets[rows] * torch.tensor([0, 1, 1, 1, 1, 1.0])
        found = assign_ota([m[picture : picture + 1] for m in maps], alone, DECODE, OtaRules())
        apart += [(lv, picture, a, y, x, int(rows[t])) for lv, _, a, y, x, t in matches_as_list(found)]
    assert whole == apart


def test_a_prediction_that_fits_two_objects_is_two_entries():
    """Two like objects on one spot that every cell predicts well: both entries of a prediction are taken."""
    maps = make_maps(1, (96, 96), 0, scale=0.05)
    targets = torch.tensor([[0, 1, 20.5, 21.0, 50.5, 46.0], [0, 1, 21.5, 21.0, 51.5, 46.0]])
    for level in range(3):
        for a, (aw, ah) in enumerate(DECODE.anchors_wh[level]):  # whatever the cell, about the size of the objects
            share = (torch.tensor([30 / aw, 25 / ah]).sqrt() / 2).clamp(max=0.99)
            maps[level][0, a, 2:4] += share.logit()[:, None, None]
    found = matches_as_list(assign_ota(maps, targets, DECODE, OtaRules()))
    assert found == reference_assignment(maps, targets, OtaRules())
    cells = [row[:5] for row in found]
    assert len(set(cells)) < len(cells)


def test_an_object_that_fits_no_anchor_takes_an_entry_of_another():
    maps = make_maps(1, (96, 96), 11)
    targets = torch.tensor([[0, 1, 33.0, 33, 34, 34], [0, 0, 20, 20, 50, 50]])
    assert not reference_entries(maps, targets[0].tolist(), OtaRules())
    found = matches_as_list(assign_ota(maps, targets, DECODE, OtaRules()))
    assert {row[5] for row in found} == {0, 1}
    assert matches_as_list(assign_ota(maps, targets[:1], DECODE, OtaRules())) == []


def test_boxes_are_those_of_the_decode():
    maps, targets = make_maps(1, (96, 96), 4), make_targets((8,), (96, 96), 4)
    cells = assign_ota(maps, targets, DECODE, OtaRules()).cells
    boxes = anchor_boxes(read_cells(maps, cells), cells, DECODE)
    for position, box in enumerate(boxes):
        lv, a, y, x = (int(f[position]) for f in (cells.level, cells.anchor, cells.row, cells.column))
        expected = reference_box(maps[lv][0, a, :, y, x].double().tolist(), (lv, a, y, x))
        torch.testing.assert_close(box.double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-3)
