"""Class targets and the focal form against their formulas, element by element."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from edgeyolo.losses.bce import focal_bce, smoothed_one_hot


def test_smoothed_targets():
    labels = torch.tensor([2, 0])
    assert smoothed_one_hot(labels, 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    expected = torch.tensor([[0.05, 0.05, 0.95], [0.95, 0.05, 0.05]])
    torch.testing.assert_close(smoothed_one_hot(labels, 3, smoothing=0.1), expected)
    assert smoothed_one_hot(labels[:0], 3).shape == (0, 3)


def test_focal_matches_the_paper_for_hard_targets():
    logits = torch.linspace(-5, 5, 21)
    for target in (0.0, 1.0):
        values = focal_bce(logits, torch.full_like(logits, target), gamma=2.0, alpha=0.25)
        for logit, value in zip(logits.tolist(), values.tolist(), strict=True):
            p = 1 / (1 + math.exp(-logit))
            pt, at = (p, 0.25) if target else (1 - p, 0.75)
            assert value == pytest.approx(-at * (1 - pt) ** 2 * math.log(pt), rel=1e-4)


def test_focal_without_focus_is_half_of_plain_cross_entropy():
    logits, targets = torch.randn(50), torch.rand(50)
    plain = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(focal_bce(logits, targets, gamma=0.0, alpha=0.5), plain / 2)
