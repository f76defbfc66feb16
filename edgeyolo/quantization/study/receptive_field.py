"""The effective receptive field of each level: how far a cell really looks, by the gradient that reaches the picture.

Source: Luo et al., Understanding the Effective Receptive Field, arXiv 1701.04128, section 3; the square that holds most
of the energy in the place of a Gaussian's width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgeyolo.spec.detections import Float32

SHARE = 0.95
_SEED = 0


@torch.enable_grad()
def effective_fields(model: nn.Module, strides: Sequence[int], images: Sequence[Float32]) -> list[int]:
    """Side in pixels of the smallest square around the middle cell of each level that holds 95 % of the energy.

    The energy is that of the gradient of all channels of the level's maps by the picture, over pictures; channels have
    random signs, so that they do not cancel on average.

    Args:
        model: in eval mode, gives raw maps, those of a level one after the other.
        images: (3, H, W) each, as the network takes them; at least one.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(_SEED)
    energies = [np.zeros(image.shape[1:]) for image in images[:1] for _ in strides]
    for image in images:
        pixels = torch.from_numpy(image)[None].to(device).requires_grad_()
        maps = model(pixels)
        per_level = len(maps) // len(strides)
        for level in range(len(strides)):
            cell = [_middle(map_) for map_ in maps[level * per_level : (level + 1) * per_level]]
            values = torch.cat(cell)
            signs = torch.randint(0, 2, values.shape, generator=generator).to(values) * 2 - 1
            (gradient,) = torch.autograd.grad((values * signs).sum(), pixels, retain_graph=True)
            energies[level] += gradient[0].double().square().sum(0).cpu().numpy()
    return [_side_of(energy, stride) for energy, stride in zip(energies, strides, strict=True)]


def _middle(map_: Tensor) -> Tensor:
    """(1, C, h, w) -> (C,) of the cell in the middle."""
    return map_[0, :, map_.shape[2] // 2, map_.shape[3] // 2]


def _side_of(energy: npt.NDArray[np.float64], stride: int) -> int:
    """Of energy (H, W), whose middle is the cell that lies there."""
    rows, columns = (
        np.abs(np.arange(size) + 0.5 - (size // stride // 2 + 0.5) * stride) + 0.5 for size in energy.shape
    )
    reach = np.maximum.outer(rows, columns).ravel()  # half the side of the square that just has the pixel
    order = np.argsort(reach, kind="stable")
    held = np.cumsum(energy.ravel()[order])
    enough = int(np.searchsorted(held, SHARE * held[-1]))
    return int(np.ceil(2 * reach[order[min(enough, len(order) - 1)]]))
