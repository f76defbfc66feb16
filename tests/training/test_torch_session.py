from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgeyolo.training.torch_session import open_torch_session


class Probe(nn.Conv2d):
    """Says where it ran."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        seen.append((x.device.type, self.weight.device.type))
        return [torch.zeros(len(x), 2, 4, 4)]


seen: list[tuple[str, str]] = []


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_module_runs_on_the_device_that_is_given_and_stays_where_it_was(device: str) -> None:
    """The device without memory stands for a GPU."""
    module = Probe(3, 2, 1)
    (map_,) = open_torch_session(module, torch.device(device)).run(np.zeros((2, 3, 4, 4), np.float32))
    assert map_.shape == (2, 2, 4, 4) and seen[-1] == (device, device)
    assert module.weight.device.type == "cpu"
