"""What trains heat maps: the squared distance to Gaussians around the joints that are labelled."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeyolo.criteria.criterion import Criterion, Loss
from edgeyolo.losses.heatmap import gaussian_maps, joint_errors, mean_of_hardest
from edgeyolo.spec.errors import UsageError

_SIGMA = 2.0


class HeatmapCriterion(Criterion):
    """Mean over the joints of half the squared error of their maps; a joint without a label counts nothing.

    A row of the targets is a labelled joint, its class id which one, and the middle of its box where; a joint of which
    two are given is taken from the last row. Joints so far outside that no part of their peak shows count nothing.

    Args:
        stride: input pixels per cell.
        sigma: of the Gaussians, cells.
        hardest: only so many joints of each picture count, the worst ones (OHKM); 0 for all.

    Source: arXiv 1902.09212, section 3.
    """

    def __init__(self, stride: int, *, sigma: float = _SIGMA, hardest: int = 0) -> None:
        super().__init__()
        self.stride = stride
        self.sigma = sigma
        self.hardest = hardest

    def forward(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Loss:
        """See `Criterion.forward`."""
        heat = maps[0].float()
        expected, weights = torch.zeros_like(heat), heat.new_zeros(heat.shape[:2])
        picture, joint = targets[:, 0].long(), targets[:, 1].long()
        points_xy = (targets[:, 2:4] + targets[:, 4:6]) / (2 * self.stride)
        peaks, is_inside = gaussian_maps(points_xy, (heat.shape[2], heat.shape[3]), self.sigma)
        expected[picture, joint] = peaks
        weights[picture, joint] = is_inside.float()
        errors = joint_errors(heat, expected) * weights
        total = mean_of_hardest(errors, self.hardest).sum() / max(1, len(heat))
        return Loss(total, {"heat": total.detach()})

    def choose_box_loss(self, name: str | None, alpha: float | None) -> None:
        """Raise UsageError where one is asked for: there are no boxes."""
        if name is not None or alpha is not None:
            raise UsageError("box_loss is set, and this model finds joints, not boxes", hint="Leave it out")

    def choose_class_loss(self, name: str) -> None:
        """Raise UsageError: there are no classes."""
        raise UsageError("class_loss is set, and this model finds joints, not classes", hint="Leave it out")
