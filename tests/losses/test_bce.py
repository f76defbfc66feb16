"""Class targets against their formula."""

from __future__ import annotations

import torch

from edgeyolo.losses.bce import smoothed_one_hot


def test_smoothed_targets():
    labels = torch.tensor([2, 0])
    assert smoothed_one_hot(labels, 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    expected = torch.tensor([[0.05, 0.05, 0.95], [0.95, 0.05, 0.05]])
    torch.testing.assert_close(smoothed_one_hot(labels, 3, smoothing=0.1), expected)
    assert smoothed_one_hot(labels[:0], 3).shape == (0, 3)
