"""Heat maps that joints are trained on, and how far others are from them.

Source: arXiv 1902.09212, section 3; hardest joints alone: Cascaded Pyramid Network, arXiv 1711.07319, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

_REACH = 3  # of a peak, in sigmas; beyond it is zero


def gaussian_maps(points_xy: Tensor, map_hw: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """Maps with one peak of height 1 each, in the cell that is nearest to a point.

    Args:
        points_xy: (N, 2) in cells, whose centres are whole numbers.
        sigma: of the Gaussian, cells.

    Returns:
        (N, h, w) float32, and (N,) bool: whether any part of the peak is within the map.
    """
    height, width = map_hw
    centres = torch.floor(points_xy + 0.5)
    reach = _REACH * sigma
    size = torch.tensor([width, height], dtype=centres.dtype, device=centres.device)
    is_inside = ((centres - reach < size) & (centres + reach + 1 >= 0)).all(dim=1)
    x = torch.arange(width, device=centres.device) - centres[:, :1]
    y = torch.arange(height, device=centres.device) - centres[:, 1:]
    peaks = (-(y[:, :, None] ** 2 + x[:, None, :] ** 2) / (2 * sigma**2)).exp()
    near = (y.abs() <= reach)[:, :, None] & (x.abs() <= reach)[:, None, :]
    return torch.where(near, peaks, 0.0).float(), is_inside


def joint_errors(maps: Tensor, expected: Tensor) -> Tensor:
    """(..., h, w) and the same -> (...): half the mean squared error of each map."""
    return 0.5 * (maps - expected).square().mean(dim=(-2, -1))


def mean_of_hardest(errors: Tensor, count: int) -> Tensor:
    """(B, K) errors -> (B,): the mean of the `count` largest of each picture; of all where count is 0."""
    return errors.mean(dim=1) if count == 0 else errors.topk(min(count, errors.shape[1]), dim=1).values.mean(dim=1)
