"""Heat maps of joints (HRNet); the rules are those of `spec.model.HeatmapDecode`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeyolo.heads._head import JointHead
from edgeyolo.heads._scores import check_numbers
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.model import HeatmapDecode
from edgeyolo.spec.tensor import output_names

_SHIFT = 0.25  # of a cell
_LARGEST_MARGIN = 10.0
_MOST_JOINTS = 1000


class HeatmapHead(JointHead):
    """One map (K, h, w)."""

    reads = HeatmapDecode

    def __init__(self, spec: HeatmapDecode) -> None:
        super().__init__(spec)
        self.margin = spec.margin
        self._skeleton = spec.skeleton

    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """See `Head.list_checks`."""
        yield "margin", 0 < self.margin <= _LARGEST_MARGIN
        yield "skeleton", all(0 <= joint < _MOST_JOINTS for edge in self._skeleton for joint in edge)

    def output_names(self) -> list[str]:
        """See `Head.output_names`."""
        return output_names(1)

    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """See `Head.map_shapes`."""
        return [(num_classes, *self.grids_hw(image_hw)[0])]

    def decode_joints(self, maps: Float32) -> Float32:
        """See `JointHead.decode_joints`.

        Nothing is moved within a cell of the border, nor along an axis whose neighbours are equal. A map that is
        nowhere above zero has its joint at (0, 0).
        """
        check_numbers(maps)
        count, joints, height, width = maps.shape
        flat = maps.reshape(count * joints, height * width)
        best = flat.argmax(axis=1)
        scores = flat[np.arange(len(best)), best]
        column, row = best % width, best // width
        is_within = (column > 1) & (column < width - 1) & (row > 1) & (row < height - 1)
        at = np.flatnonzero(is_within)
        across = np.sign(flat[at, best[at] + 1] - flat[at, best[at] - 1])
        down = np.sign(flat[at, best[at] + width] - flat[at, best[at] - width])
        places = np.stack((column, row), axis=1).astype(np.float32)
        places[at] += np.float32(_SHIFT) * np.stack((across, down), axis=1)
        places[scores <= 0] = 0
        found = np.concatenate((places * np.float32(self.strides[0]), scores[:, None]), axis=1)
        return np.asarray(found.reshape(count, joints, 3), np.float32)


HEAD = HeatmapHead
