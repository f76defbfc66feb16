"""The decoder against cell-by-cell references written from the docstrings of `edgeyolo.spec.model`."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from edgeyolo.heads import head_of
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import AnchorDecode, BoxesDecode, Decode, DflDecode, GraphDecode, GridDecode, PointDecode

Row = tuple[float, float, float, float, float, int]

ANCHOR = AnchorDecode(
    strides=(8, 16),
    anchors_wh=(((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)), ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0))),
)
DFL = DflDecode(strides=(8, 16, 32), bins=17)
CORNER = DflDecode(strides=(8, 16, 32), bins=8, offset=0.0)
POINT = PointDecode(strides=(8, 16, 32), box="centre", objectness=True)
SIDES = PointDecode(strides=(8, 16, 32), box="sides", objectness=False)
GROWN = msgspec.structs.replace(ANCHOR, size="exp", reach=(1.2, 1.0))
AWARE = msgspec.structs.replace(GROWN, iou_power=0.4)
SOFT = msgspec.structs.replace(GROWN, classes="softmax")
GRID = GridDecode(strides=(16,), boxes=2)
KINDS = {
    "anchor": ANCHOR,
    "anchor-exp": GROWN,
    "dfl": DFL,
    "corner": CORNER,
    "point": POINT,
    "sides": SIDES,
    "grid": GRID,
}
EVERY = pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def anchor_rows(maps: list[np.ndarray], spec: AnchorDecode, num_classes: int) -> list[list[Row]]:
    """For every prediction, one row per class."""
    predictions = []
    for level, stride in enumerate(spec.strides):
        raw, power, anchors_wh = maps[level], spec.iou_power, spec.anchors_wh[level]
        overlaps, main = (raw[: len(anchors_wh)], raw[len(anchors_wh) :]) if power else (None, raw)
        for a, (anchor_w, anchor_h) in enumerate(anchors_wh):
            for y in range(raw.shape[1]):
                for x in range(raw.shape[2]):
                    logits = [float(v) for v in main[a * (5 + num_classes) : (a + 1) * (5 + num_classes), y, x]]
                    t = [sigmoid(v) for v in logits]
                    g = spec.reach[level] if spec.reach else 2
                    cx, cy = (g * t[0] - (g - 1) / 2 + x) * stride, (g * t[1] - (g - 1) / 2 + y) * stride
                    w, h = (2 * t[2]) ** 2 * anchor_w, (2 * t[3]) ** 2 * anchor_h
                    if spec.size == "exp":  # exp(t) is the odds of its sigmoid
                        w, h = t[2] / (1 - t[2]) * anchor_w, t[3] / (1 - t[3]) * anchor_h
                    box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                    sure = t[4] ** (1 - power) * (sigmoid(float(overlaps[a, y, x])) ** power if power else 1)
                    shares = t[5:]
                    if spec.classes == "softmax":
                        shares = [math.exp(v) / sum(map(math.exp, logits[5:])) for v in logits[5:]]
                    predictions.append([(*box, sure * shares[k], k) for k in range(num_classes)])
    return predictions


def dfl_rows(maps: list[np.ndarray], spec: DflDecode, num_classes: int) -> list[list[Row]]:
    predictions = []
    for level, stride in enumerate(spec.strides):
        classes, boxes = maps[2 * level], maps[2 * level + 1]
        for y in range(classes.shape[1]):
            for x in range(classes.shape[2]):
                sides = []
                for side in range(4):
                    weights = [math.exp(float(boxes[side * spec.bins + i, y, x])) for i in range(spec.bins)]
                    sides.append(sum(i * w for i, w in enumerate(weights)) / sum(weights) * stride)
                px, py = (x + spec.offset) * stride, (y + spec.offset) * stride
                box = (px - sides[0], py - sides[1], px + sides[2], py + sides[3])
                predictions.append([(*box, sigmoid(float(classes[k, y, x])), k) for k in range(num_classes)])
    return predictions


def point_rows(maps: list[np.ndarray], spec: PointDecode, num_classes: int) -> list[list[Row]]:
    predictions = []
    per_level = 3 if spec.objectness else 2
    for level, stride in enumerate(spec.strides):
        classes, *objectness, boxes = maps[per_level * level : per_level * (level + 1)]
        for y in range(classes.shape[1]):
            for x in range(classes.shape[2]):
                a, b, c, d = (float(v) for v in boxes[:, y, x])
                if spec.box == "centre":
                    w, h = math.exp(c) * stride, math.exp(d) * stride
                    cx, cy = (a + x) * stride, (b + y) * stride
                    box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                else:
                    px, py = x + 0.5, y + 0.5
                    box = ((px - a) * stride, (py - b) * stride, (px + c) * stride, (py + d) * stride)
                sure = sigmoid(float(objectness[0][0, y, x])) if objectness else 1.0
                predictions.append([(*box, sure * sigmoid(float(classes[k, y, x])), k) for k in range(num_classes)])
    return predictions


def grid_rows(maps: list[np.ndarray], spec: GridDecode, num_classes: int) -> list[list[Row]]:
    predictions = []
    for (stride,), raw in [(spec.strides, maps[0])]:
        _, rows, columns = raw.shape
        for b in range(spec.boxes):
            for i in range(rows):
                for j in range(columns):
                    x, y, w, h, sure = (float(v) for v in raw[5 * b : 5 * b + 5, i, j])
                    cx, cy, w, h = (x + j) * stride, (y + i) * stride, w**2 * columns * stride, h**2 * rows * stride
                    box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                    shares = (float(v) for v in raw[5 * spec.boxes :, i, j])
                    scores = [min(max(sure, 0), 1) * min(max(share, 0), 1) for share in shares]
                    predictions.append([(*box, score, k) for k, score in enumerate(scores)])
    return predictions


def boxes_rows(maps: list[np.ndarray], spec: BoxesDecode, num_classes: int) -> list[list[Row]]:
    predictions = []
    for column in maps[0].T.tolist():
        a, b, c, d = column[:4]
        box = (a, b, c, d) if spec.box == "xyxy" else (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
        sure = column[4] if spec.objectness else 1.0
        predictions.append([(*box, sure * score, k) for k, score in enumerate(column[-num_classes:])])
    return predictions


ROWS = {
    AnchorDecode: anchor_rows,
    BoxesDecode: boxes_rows,
    DflDecode: dfl_rows,
    GridDecode: grid_rows,
    PointDecode: point_rows,
}


def reference(maps: list[np.ndarray], spec: Decode, num_classes: int, threshold: float, multi_label: bool) -> list[Row]:
    predictions = ROWS[type(spec)](maps, spec, num_classes)
    rows = []
    for per_class in predictions:
        chosen = per_class if multi_label else [max(per_class, key=lambda row: row[4])]
        rows += [row for row in chosen if row[4] >= threshold]
    return sorted(rows)


def in_one_order(rows: list[Row]) -> np.ndarray:
    return np.array(sorted((row[5], round(row[4], 4), *row[:4]) for row in rows))


def random_maps(spec: Decode, num_classes: int, seed: int, shift: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = head_of(spec).map_shapes(num_classes, (64, 96))
    return [rng.normal(shift, 2.5, shape).astype(np.float32) for shape in shapes]


@EVERY
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("threshold", "num_classes"), [(0.0, 3), (0.001, 3), (0.25, 3), (0.6, 1), (0.25, 20)])
def test_decode_is_what_the_spec_says(spec: Decode, multi_label: bool, threshold: float, num_classes: int) -> None:
    maps = random_maps(spec, num_classes, seed=num_classes, shift=-0.5)
    expected = reference(maps, spec, num_classes, threshold, multi_label)
    assert expected, "the test must have something to find"
    boxes, scores, class_ids = head_of(spec).decode(maps, score_threshold=threshold, multi_label=multi_label)
    assert boxes.dtype == scores.dtype == np.float32 and class_ids.dtype == np.int64
    found = sorted((*map(float, box), float(s), int(k)) for box, s, k in zip(boxes, scores, class_ids, strict=True))
    assert len(found) == len(expected)
    # float32 against float64: 1e-4 of a pixel at coordinates of about 100 px
    np.testing.assert_allclose(in_one_order(found), in_one_order(expected), rtol=2e-5, atol=1e-3)


@pytest.mark.parametrize("box", ["cxcywh", "xyxy"])
@pytest.mark.parametrize("objectness", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
def test_rows_of_boxes_are_read_as_the_spec_says(box: str, objectness: bool, multi_label: bool) -> None:
    spec = BoxesDecode(strides=(8,), rows=96, box=box, objectness=objectness)  # type: ignore[arg-type]
    maps = [np.random.default_rng(1).random((4 + objectness + 3, 96)).astype(np.float32)]
    for threshold in (0.0, 0.3):
        expected = reference(maps, spec, 3, threshold, multi_label)
        found = head_of(spec).decode(maps, score_threshold=threshold, multi_label=multi_label)
        rows = sorted((*map(float, b), float(s), int(k)) for b, s, k in zip(*found, strict=True))
        assert len(rows) == len(expected) > 0
        np.testing.assert_allclose(in_one_order(rows), in_one_order(expected), rtol=2e-5, atol=1e-3)
    maps[0][5, 7] = np.nan
    with pytest.raises(BackendError, match="NaN"):
        head_of(spec).decode(maps, score_threshold=0.3)


@EVERY
def test_nothing_above_the_threshold_gives_empty_arrays(spec: Decode) -> None:
    maps = random_maps(spec, 3, seed=0, shift=-60.0)
    boxes, scores, class_ids = head_of(spec).decode(maps, score_threshold=0.25)
    assert boxes.shape == (0, 4) and scores.shape == class_ids.shape == (0,)
    assert boxes.dtype == scores.dtype == np.float32 and class_ids.dtype == np.int64


@EVERY
def test_a_threshold_of_one_and_extreme_logits_are_quiet(spec: Decode) -> None:
    maps = [np.where(m > 0, np.float32(1e4), np.float32(-1e4)) for m in random_maps(spec, 2, seed=0)]
    _, scores, _ = head_of(spec).decode(maps, score_threshold=1.0)
    assert len(scores) and (scores == 1.0).all()


@EVERY
@pytest.mark.parametrize("which", [0, -1])
def test_nan_is_reported_and_not_swallowed(spec: Decode, which: int) -> None:
    maps = random_maps(spec, 3, seed=0, shift=2.0)
    maps[which][:] = np.nan
    with pytest.raises(BackendError, match="NaN"):
        head_of(spec).decode(maps, score_threshold=0.25)


def test_map_shapes_follow_the_docstrings() -> None:
    assert head_of(ANCHOR).map_shapes(80, (640, 320)) == [(255, 80, 40), (255, 40, 20)]
    shapes = [(80, 8, 4), (68, 8, 4), (80, 4, 2), (68, 4, 2), (80, 2, 1), (68, 2, 1)]
    assert head_of(DFL).map_shapes(80, (64, 32)) == shapes
    assert head_of(POINT).map_shapes(80, (64, 32))[:3] == [(80, 8, 4), (1, 8, 4), (4, 8, 4)]
    assert head_of(SIDES).map_shapes(80, (64, 32))[:2] == [(80, 8, 4), (4, 8, 4)]
    assert head_of(GraphDecode(strides=(8,), candidates=9)).map_shapes(80, (64, 32)) == [(9, 4), (9,), (9,)]


def test_a_point_in_the_middle_is_not_written_down_for_readers_that_know_no_other() -> None:
    assert msgspec.json.decode(msgspec.json.encode(DFL)) == {"kind": "dfl", "strides": [8, 16, 32], "bins": 17}
    assert msgspec.json.decode(msgspec.json.encode(CORNER), type=DflDecode) == CORNER
