"""Every model of the registry at a size for tests: small ones as they are, the others with an eighth of their channels.

A thin network has every layer and every connection of the full one, and little arithmetic; where a config counts the
residual blocks of its stages, none is there more than twice. Of sizes that differ in numbers only, of levels too, the
first stands for the others.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pkgutil import iter_modules
from typing import Any

import pytest
import torch
from torch import nn

from edgeyolo import models

SHARE = 8
SMALL = (
    *("yolov7-nano", "yolov7-tiny", "ppyoloe-s"),
    *("yolov5n", "yolov6n", "yolov8n", "yolox-nano", "yolox-tiny", "damo-ns"),
    *("yolov1-nano", "yolov2-nano", "ppyolo-tiny"),
    *("yolov3-tiny", "yolov4-tiny", "hrnet-w18-small"),
)
_COVERED = (
    "yolov7-e6",
    "yolov7-d6",
    "yolov4-p7",
)  # yolov7-e6e has each of their parts, twice; yolor-e6 the norms of p7
_THIN = ", thin"
_MOST_BLOCKS = 2  # in a row, of families whose config counts them
_SIZES = (
    "name",
    "depth",
    "width",
    "most_chs",
    "siou",
    "image_size",
    "stem_and_stages",
    "stage_blocks",
    "neck_chs",
    "anchors_wh",
    "stem_chs",
    "stages",
    "neck_count",
    "neck_share",
    "stem",
    "neck",
    "first",
    "neck_blocks",
    "spp_blocks",
    "transition",
    "blocks",
    "spp",
    "tiny",
    "branch_chs",
    "narrow_chs",
    "narrow_blocks",
    "module_count",
    "block_count",
    *("layers", "stride", "local_chs"),  # YOLOv1's rows of convolutions
    *("head_chs", "fine_chs", "alternating"),  # YOLOv2's, of which the first has all
)


def list_networks() -> list[Any]:
    """Parameters of a test: every structure once, thin unless it is small; among the slow tests every model in full."""
    others = [name for name in models.model_names() if name not in SMALL]
    first: dict[object, str] = {}
    for name in (*SMALL, *others):
        first.setdefault(_structure(name), name)
    thin = [name + _THIN for name in others if name in first.values() and name not in _COVERED]
    full = [pytest.param(name, marks=pytest.mark.slow) for name in others]
    return [*SMALL, *thin, *full]


def _structure(name: str) -> object:
    """What a model has beside numbers of blocks, channels and levels; models that agree in it differ in size only."""
    families = (importlib.import_module(f"{models.__name__}.{found.name}") for found in iter_modules(models.__path__))
    family: Any = next(family for family in families if name in getattr(family, "VARIANTS", ()))
    config = dataclasses.asdict(family.VARIANTS[name])
    return family.__name__, str({k: v for k, v in config.items() if k not in _SIZES})


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
        elif field.name == "blocks":
            changes[field.name] = tuple(min(count, _MOST_BLOCKS) for count in value)
        elif field.name.endswith("chs"):
            changes[field.name] = tuple(chs // SHARE for chs in value) if isinstance(value, tuple) else value // SHARE
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            changes[field.name] = tuple(narrow(part) for part in value)
    return dataclasses.replace(config, **changes)
