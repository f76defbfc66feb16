"""Scenes every assigner is judged on: a batch of pictures, random and adversarial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeyolo.assigners.assignment import PointGrid, make_point_grid

CLASSES = 5
SIZE = 64
SCENES = (
    "random",
    "no objects",
    "one object",
    "one picture without objects",
    "identical boxes",
    "outside of the picture",
    "three hundred objects",
    "smaller than a cell",
    "whole picture",
    "extreme predictions",
    "perfect predictions",
)


@dataclass(frozen=True)
class Scene:
    """targets (N, 6), predicted scores (B, A, K) and boxes_xyxy (B, A, 4), and the points they stand on."""

    targets: Tensor
    scores: Tensor
    boxes_xyxy: Tensor
    grid: PointGrid

    def objects_of(self, picture: int) -> list[tuple[int, list[float]]]:
        """Class and box of each object of one picture, in order."""
        rows = self.targets[self.targets[:, 0] == picture].double().tolist()
        return [(int(row[1]), row[2:]) for row in rows]


def _random_rows(rng: np.random.Generator, pictures: list[int], size: tuple[float, float]) -> np.ndarray:
    centre = rng.uniform(0, SIZE, (len(pictures), 2))
    half = rng.uniform(*size, (len(pictures), 2)) / 2
    classes = rng.integers(0, CLASSES, (len(pictures), 1))
    return np.hstack([np.array(pictures, dtype=float)[:, None], classes, centre - half, centre + half])


def _rows(name: str, rng: np.random.Generator) -> np.ndarray:
    if name == "no objects":
        return np.zeros((0, 6))
    if name == "one object":
        return np.array([[1, 2, 8.0, 16.0, 40.0, 56.0]])
    if name == "one picture without objects":
        return _random_rows(rng, [2, 0, 2, 0, 2], (10, 60))
    if name == "identical boxes":
        box = [10.0, 12.0, 50.0, 44.0]
        return np.array([[0, 1, *box], [0, 1, *box], [0, 3, *box], [1, 4, *box], [1, 0, *box]])
    if name == "outside of the picture":
        return np.array(
            [[0, 1, 200.0, 200.0, 260.0, 250.0], [0, 2, -90.0, 3.0, -20.0, 40.0], [1, 0, -30.0, -30.0, 20.0, 25.0]]
        )
    if name == "three hundred objects":
        return _random_rows(rng, [0] * 300 + [1] * 3, (4, 60))
    if name == "smaller than a cell":
        return np.array([[0, 1, 20.5, 20.5, 22.0, 23.0], [0, 2, 3.0, 3.0, 5.5, 5.0], [2, 2, 7.5, 7.5, 8.5, 8.5]])
    if name == "whole picture":
        return np.array([[0, 1, 0.0, 0.0, 64.0, 64.0], [1, 3, -10.0, -10.0, 90.0, 90.0]])
    return _random_rows(rng, [0, 0, 0, 1, 2, 2, 2, 2, 2], (8, 60))


def make_scene(name: str) -> Scene:
    rng = np.random.default_rng(SCENES.index(name))
    grid = make_point_grid([(8, 8), (4, 4), (2, 2)], (8, 16, 32), torch.device("cpu"))
    targets = torch.from_numpy(_rows(name, rng)).float()
    generator = torch.Generator().manual_seed(SCENES.index(name))
    scores = torch.rand(3, len(grid.points_xy), CLASSES, generator=generator)
    reach = torch.rand(3, len(grid.points_xy), 4, generator=generator) * 3 * grid.strides[:, None]
    boxes = torch.cat((grid.points_xy - reach[..., :2], grid.points_xy + reach[..., 2:]), dim=-1)
    if name == "extreme predictions":
        scores = scores.round()
        boxes[0, ::2] = torch.tensor([-1e6, -1e6, 1e6, 1e6])
        boxes[1, ::3] = boxes[1, ::3, :2].repeat(1, 2)  # no area
    if name == "perfect predictions":
        first = targets[targets[:, 0] == 0][0]
        boxes[0] = first[2:]
        scores[0] = 0.5
    return Scene(targets, scores, boxes, grid)


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest) -> Scene:
    return make_scene(request.param)
