"""A torch module behind the same door as a board's engine, so that both are measured by one runtime."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeyolo.training.device import batch_of, exact_convolutions


class TorchSession:
    """Runs a module on NumPy batches; satisfies `edgeyolo.backends.Session`.

    Args:
        module: maps (B, 3, H, W) float32 to a list of raw head maps; used in eval mode.

    Attributes:
        batch: how many pictures at a time are fastest.
    """

    def __init__(self, module: nn.Module, *, device: torch.device | str = "cpu") -> None:
        self._module = module.eval()
        self._device = torch.device(device)
        self.batch = batch_of(self._device)

    @torch.inference_mode()
    def run(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """(B, 3, H, W) -> one (B, C, h, w) float32 array per map."""
        batch = torch.from_numpy(images).to(self._device).contiguous(memory_format=torch.channels_last)
        with exact_convolutions():
            maps = self._module(batch)
        return [map_.float().contiguous().cpu().numpy() for map_ in maps]

    def close(self) -> None:
        """Nothing to give back."""


def open_torch_session(module: nn.Module, device: torch.device) -> TorchSession:
    """A session on a device; on another one than the CPU for a copy of the module."""
    return TorchSession(module if device.type == "cpu" else copy.deepcopy(module).to(device), device=device)
