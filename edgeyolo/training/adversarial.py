"""Self-adversarial training: a network first changes a picture so that it sees nothing in it, then learns from that.

The picture moves by one step against the loss of a picture without objects; where the objects are has not changed.

Source: YOLOv4, arXiv 2004.10934, section 3.3; the step is the fast gradient sign's, arXiv 1412.6572, equation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeyolo.criteria.criterion import alone
from edgeyolo.geometry.network_input import scaling_of
from edgeyolo.training.parts import statistics_kept
from edgeyolo.training.run import Run

LEVELS = 8.0  # of 255, that a pixel moves: hardly seen


def deceive(run: Run, images: Tensor) -> Tensor:
    """Some pictures (B, 3, H, W) as the network would rather have them; weights, and what it remembers, stay.

    Each is chosen by the probability that the config gives.
    """
    if not run.config.adversarial or not len(images):
        return images
    chosen = (torch.rand(len(images)) < run.config.adversarial).to(images.device)
    moved = [_move(run, part) for part in images.tensor_split(min(run.config.accumulate, len(images)))]
    return torch.where(chosen[:, None, None, None], torch.cat(moved), images)


def _move(run: Run, images: Tensor) -> Tensor:
    leaf = images.detach().clone().requires_grad_()
    with statistics_kept(run.model):
        with run.job.autocast():
            outputs: list[Tensor] = run.network(leaf)
        with alone():
            loss = run.job.loss_of_nothing([output.float() for output in outputs], leaf)
    (gradient,) = torch.autograd.grad(loss, leaf)
    factor, offset = (torch.from_numpy(v).to(images).view(1, 3, 1, 1) for v in scaling_of(run.job.spec.input))
    moved = leaf.detach() - LEVELS * factor * gradient.sign()
    return torch.maximum(torch.minimum(moved, 255 * factor - offset), -offset)
