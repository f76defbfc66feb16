"""Every model of the registry at a size for tests: small ones as they are, the others with an eighth of their channels.

A thin network has every layer and every connection of the full one, and little arithmetic.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest
import torch
from torch import nn

from edgeyolo import models

SHARE = 8
SMALL = ("yolov7-nano", "yolov7-tiny", "ppyoloe-s", "ppyoloe-plus-s")
_THIN = ", thin"


def list_networks() -> list[Any]:
    """Parameters of a test: every model once, thin unless it is small; among the slow tests the others in full too."""
    others = [name for name in models.model_names() if name not in SMALL]
    full = [pytest.param(name, marks=pytest.mark.slow) for name in others]
    return [*SMALL, *(name + _THIN for name in others), *full]


def make_network(case: str, num_classes: int) -> models.DetectorNetwork:
    """The network of a case, which is a model's name, with ", thin" behind it for fewer channels.

    A family's config says how wide a model is in fields that end in `chs`, or by a factor `width`.
    """
    name = case.removesuffix(_THIN)
    if name == case:
        return models.create(name, num_classes)
    with torch.device("meta"):
        full = models.create(name, num_classes)
    family: Any = sys.modules[type(full).__module__]
    thin: models.DetectorNetwork = family.Network(narrow(full.config))
    assert count(thin) < count(full) / SHARE, f"the config of {name} has no `chs` or `width` that makes it thin"
    return thin


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def narrow(config: Any) -> Any:
    """A copy of a config, the configs inside it too."""
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "width":
            changes[field.name] = value / SHARE
        elif field.name.endswith("chs"):
            changes[field.name] = tuple(chs // SHARE for chs in value) if isinstance(value, tuple) else value // SHARE
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            changes[field.name] = tuple(narrow(part) for part in value)
    return dataclasses.replace(config, **changes)
