"""Weights that a training starts from: a checkpoint of our own, or a file that a model's authors publish."""

from __future__ import annotations

import logging
from pathlib import Path

from edgeyolo import models
from edgeyolo.spec.model import Origin
from edgeyolo.training.checkpoint import checkpoint_path, load_matching_weights, read_tensors, strip_prefix

_LOG = logging.getLogger(__name__)
OFFICIAL_SUFFIXES = (".pt", ".pth", ".pdparams", ".weights")


def load_start(model: models.DetectorNetwork, weights: Path) -> Origin | None:
    """Load weights to fine-tune from; a `.pt`, `.pth`, `.pdparams` or `.weights` is read as an official file.

    Returns:
        Who has published them, if anybody.

    Raises:
        CheckpointError: unreadable, or of another model. UsageError: nothing is published for the model.
    """
    if weights.suffix in OFFICIAL_SUFFIXES:
        fresh = models.load_official_weights(model, weights)
        origin: Origin | None = models.origin_of(model.config.name, weights)
    else:
        tensors, record = read_tensors(checkpoint_path(weights))
        origin = record.model.origin
        fresh = load_matching_weights(model, strip_prefix(tensors, "model."), where=weights)
    _LOG.info("%d tensors do not fit %s and start fresh: %s", len(fresh), weights, ", ".join(fresh[:6]))
    return origin
