"""What the engine of this room trains: detectors, students of a teacher and quantized models are three jobs."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from edgeyolo.criteria.criterion import Loss
from edgeyolo.spec.model import ModelSpec


class Job(ABC):
    """One thing to train: the model, its loss, and how it is measured. The engine does the rest.

    Args:
        spec: of the detector that comes out.
        model: what is trained, averaged and saved, on its device.
        half: the type that autocast uses in the forward pass, None for float32.

    Attributes:
        stage: what the progress calls an epoch.
        artefact: what the scores are called.
        adapters: what is trained beside the model and does not ship, by name; None for nothing.
        trains_statistics: whether the model is in train mode, where batch normalisation goes by the batch.
        counts_start: whether the model is measured before training, and kept if no epoch is better.
        identity: a digest of all that decides how it goes; empty where model, config and classes say enough. A run is
            resumed only by a job with the same one.
    """

    stage = "epoch"
    artefact = "float torch"
    trains_statistics = True
    counts_start = False
    identity = ""
    adapters: nn.ModuleDict | None = None

    def __init__(self, spec: ModelSpec, model: nn.Module, half: torch.dtype | None) -> None:
        self.spec = spec
        self.model = model
        self.half = half

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def autocast(self) -> torch.autocast:
        """The precision of forward passes, as a `with` block."""
        return torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None)

    def trained_network(self, model: nn.Module) -> nn.Module:
        """The module that training calls, made around the job's model or a copy of it.

        It maps normalised images (B, 3, H, W) to a list of tensors with the batch first: all that `loss` looks at.
        """
        return model

    @abstractmethod
    def loss(self, outputs: list[Tensor], targets: Tensor, images: Tensor) -> Loss:
        """The loss of one batch.

        Args:
            outputs: of the trained network, float32.
            targets: (N, 6) float32, as `Criterion` takes them.
            images: (B, 3, H, W), normalised; B is 0 where a process has no share of a batch.
        """

    def loss_of_nothing(self, outputs: list[Tensor], images: Tensor) -> Tensor:
        """What `loss` would be of the model alone, if there were no object in the pictures; a scalar."""
        return self.loss(outputs, images.new_zeros(0, 6), images).total

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Told the optimizer of the model, once it is made."""
        return

    def start_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0."""
        return

    def deploy_form(self, average: nn.Module) -> nn.Module:
        """The module (B, 3, H, W) -> raw maps that is measured, for averaged weights; those stay as they are."""
        return average
