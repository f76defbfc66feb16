"""The predictions that a file gives by itself, row by row: found, read, and compared with what raw maps would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeyolo.geometry.boxes import xyxy_from_cxcywh
from edgeyolo.graph.foreign.head_layers import Candidate, Shapes
from edgeyolo.heads import box_head_of, raw_head_of
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.foreign import ForeignDescription
from edgeyolo.spec.model import AnchorDecode, PointDecode

if TYPE_CHECKING:
    from onnx import ModelProto

Values = Mapping[str, Float32]  # name of a tensor -> its values for one picture

_TOLERANCE = 2e-3  # of the size of a box, and of a score
_SHARE = 2.0  # largest coordinate that is still a share of the picture
_DIGITS = 3  # of an anchor's side
_LEAST_SHARE = 1e-3  # of a side that still tells its anchor's


@dataclass(frozen=True)
class Rows:
    """Outputs of a file that hold one row for each prediction.

    Attributes:
        outputs: one tensor of boxes and scores, or the boxes' and the scores'.
        rows_last: of each, whether it is (1, C, N) and not (1, N, C).
        channels: C of all of them together.
        count: N.
    """

    outputs: tuple[str, ...]
    rows_last: tuple[bool, ...]
    channels: int
    count: int

    def read(self, values: Values) -> Float32:
        """(N, C)."""
        pairs = zip(self.outputs, self.rows_last, strict=True)
        return np.concatenate([values[name][0].T if last else values[name][0] for name, last in pairs], axis=1)


def find_rows(model: ModelProto, shapes: Shapes, told: ForeignDescription) -> Rows | None:
    """The output, or the two outputs, that hold predictions; None where there are none, or too many to tell."""
    names = told.outputs or tuple(entry.name for entry in model.graph.output)
    flat = {name: shapes[name] for name in names if len(shapes.get(name, ())) == 3 and shapes[name][0] == 1}
    if len(flat) == 2 == len(names):
        boxes, scores = sorted(flat, key=lambda name: (4 not in flat[name][1:], name))
        found = [_read_sizes(flat[boxes], 4), _read_sizes(flat[scores], None, flat[boxes])]
        (channels, count, last), (classes, rows, scores_last) = found
        return Rows((boxes, scores), (last, scores_last), channels + classes, count) if rows == count else None
    if len(flat) != 1:
        return None
    name, shape = next(iter(flat.items()))
    channels, count, last = _read_sizes(shape, None)
    return Rows((name,), (last,), channels, count) if channels > 4 else None


def _read_sizes(
    shape: tuple[int, ...], channels: int | None, like: tuple[int, ...] | None = None
) -> tuple[int, int, bool]:
    """Channels, rows, and whether rows are last, of (1, C, N) or (1, N, C); there are more rows than channels."""
    one, other = shape[1:]
    rows = max(like[1:]) if like else 0
    is_last = other == rows if rows in (one, other) else (one == channels if channels in (one, other) else one < other)
    return (one, other, True) if is_last else (other, one, False)


def box_forms(told: ForeignDescription) -> list[tuple[str, str]]:
    """("cxcywh" or "xyxy", "pixels" or "share") as far as `told` leaves it open."""
    forms = [told.box] if told.box in ("cxcywh", "xyxy") else ["cxcywh", "xyxy"]
    units = [told.unit] if told.unit else ["pixels", "share"]
    return [(form, unit) for form in forms for unit in units]


def likely_form(rows: Float32, told: ForeignDescription) -> tuple[str, str]:
    """How boxes are written, by their values: corners do not cross, and shares are small."""
    is_corners = bool((rows[:, 2] >= rows[:, 0]).all() and (rows[:, 3] >= rows[:, 1]).all())
    is_share = bool(np.abs(rows[:, :4]).max() <= _SHARE)
    form, unit = ("xyxy" if is_corners else "cxcywh"), ("share" if is_share else "pixels")
    return next(pair for pair in sorted(box_forms(told), key=lambda pair: (pair[0] != form, pair[1] != unit)))


def are_logits(scores: Float32) -> bool:
    """Whether they cannot be shares."""
    return bool(scores.min() < 0.0 or scores.max() > 1.0)


def with_anchors(candidate: Candidate, rows: Float32, values: Values) -> Candidate:
    """An anchor head with the anchors that its file's own boxes have, where these are of its number."""
    decode = candidate.decode
    assert isinstance(decode, AnchorDecode)
    levels, start = [], 0
    for prediction, anchors in zip(
        raw_head_of(decode).predictions([values[name] for name in candidate.tensors]), decode.anchors_wh, strict=True
    ):
        shares = 1 / (1 + np.exp(-np.clip(prediction.boxes[0, :, 2:4], -80, 80)))
        sizes = rows[start : start + len(shares), 2:4]
        if len(sizes) != len(shares):
            return candidate
        factors = np.where(shares > _LEAST_SHARE, 4 * shares**2, np.nan)
        by_anchor = (sizes / factors).reshape(len(anchors), -1, 2)
        if np.isnan(by_anchor).all(axis=1).any():
            return candidate
        found = np.nanmedian(by_anchor, axis=1)
        levels.append(tuple((round(float(w), _DIGITS), round(float(h), _DIGITS)) for w, h in found))
        start += len(shares)
    return _with_sizes(candidate, tuple(levels))


def _with_sizes(candidate: Candidate, anchors: tuple[tuple[tuple[float, float], ...], ...]) -> Candidate:
    """The candidate with other anchors; as it is where one of them has no size."""
    if not all(np.isfinite(side) and side > 0 for level in anchors for anchor in level for side in anchor):
        return candidate
    decode = msgspec.structs.replace(candidate.decode, anchors_wh=anchors)
    return Candidate(decode, candidate.tensors, candidate.num_classes)


def agrees(
    candidate: Candidate, rows: Float32, values: Values, image_hw: tuple[int, int], told: ForeignDescription
) -> str:
    """How the maps of a candidate say what the file's own rows say; "" where they do not.

    "decoded": boxes and scores are the same. "raw": the rows are the maps, with scores made shares.
    """
    maps = [values[name] for name in candidate.tensors]
    boxes, scores, _ = box_head_of(candidate.decode).decode([found[0] for found in maps], score_threshold=0.0)
    extra = rows.shape[1] - 4 - candidate.num_classes
    if len(rows) != len(boxes) or extra not in (0, 1):
        return ""
    best = rows[:, 4 + extra :].max(axis=1) * (rows[:, 4] if extra else 1.0)
    if not _is_close(scores, best, 1.0):
        return ""
    for form, unit in box_forms(told):
        scale = np.asarray([*image_hw[::-1]] * 2, np.float32) if unit == "share" else np.float32(1)
        own = xyxy_from_cxcywh(rows[:, :4]) if form == "cxcywh" else rows[:, :4]
        if _is_close(boxes, own * scale, float(max(image_hw)) / 10):
            return "decoded"
    if isinstance(candidate.decode, PointDecode):
        raw = np.concatenate([level.boxes[0] for level in raw_head_of(candidate.decode).predictions(maps)])
        return "raw" if _is_close(raw, rows[:, :4], 1.0) else ""
    return ""


def _is_close(found: Float32, wanted: Float32, size: float) -> bool:
    return bool((np.abs(found - wanted) <= _TOLERANCE * (size + np.abs(wanted))).all())


def tensors_of(candidates: Sequence[Candidate]) -> list[str]:
    """Every tensor that one of them reads."""
    return list(dict.fromkeys(name for candidate in candidates for name in candidate.tensors))
