"""In: a name and a number of classes. Out: a network, (B, 3, H, W) -> raw per-level maps. Verb: `models.create`.

The folder is the registry: every module or package here without a leading underscore is a family, with `VARIANTS`,
name -> frozen config dataclass (`name`, `num_classes`, `activation`, `image_size` among its fields), `Network(config)`,
and, where its authors publish weights, `PUBLISHED`, which says how to read them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeyolo.heads import Anchors, head_of
from edgeyolo.models._cfg import OWN, CfgNetwork, is_same, network_of
from edgeyolo.models._companion import Accompanied, Companion
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.models._planned import PlannedNetwork
from edgeyolo.models._registry import families, family_module, image_hw_of_model, is_published, task_of
from edgeyolo.models._sizes import SIZES, ModelInfo, convolutions_of, list_models, measure_model
from edgeyolo.spec.errors import CheckpointError, UsageError
from edgeyolo.spec.model import ModelSpec, Origin
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.weights.darknet_cfg import parse_cfg, read_cfg, without_training
from edgeyolo.weights.pretrained import (
    Comparison,
    OfficialWeights,
    Published,
    compare_weights,
    place_weights,
    read_weights,
)

__all__ = [
    "SIZES",
    "Accompanied",
    "Anchors",
    "Companion",
    "DarknetModel",
    "DetectorNetwork",
    "ModelInfo",
    "anchors_in",
    "anchors_of",
    "compare_models",
    "convolutions_of",
    "create",
    "family_of",
    "guess_models",
    "image_hw_of_model",
    "is_published",
    "learning_rate_of",
    "list_models",
    "load_darknet",
    "load_official_weights",
    "load_pretrained",
    "measure_model",
    "model_names",
    "origin_of",
    "rebuild",
    "task_of",
]


def create(
    name: str, num_classes: int, *, activation: str | None = None, anchors_wh: Anchors | None = None
) -> DetectorNetwork:
    """A network with random weights, in training form.

    Args:
        name: as `model_names` lists them.
        num_classes: K, at least 1; joints, for a model that finds them.
        activation: of the hidden layers, a name `nn.activation` knows; None for the model's own.
        anchors_wh: per level, finest first, in input pixels; None for the model's own.

    Raises:
        UnknownNameError: no such model or activation. UsageError: fewer than one class, or anchors for a model that
            has none or another number of them.
    """
    if num_classes < 1:
        raise UsageError(f"{num_classes} classes", where=name, hint="A network needs at least one class, or joint")
    module = family_module(name)
    config = dataclasses.replace(module.VARIANTS[name], num_classes=num_classes)
    if activation is not None:
        config = dataclasses.replace(config, activation=activation)
    if anchors_wh is not None:
        _check_anchors(config, anchors_wh)
        config = dataclasses.replace(config, anchors_wh=anchors_wh)
    network: DetectorNetwork = module.Network(config)
    return network


def rebuild(spec: ModelSpec) -> DetectorNetwork:
    """The network that a record describes, its anchors too, with random weights; arguments checked as by `create`."""
    if spec.structure:
        return network_of(parse_cfg(spec.structure, where=spec.name), spec.structure, spec.name)
    return create(spec.name, len(spec.class_names), activation=spec.activation, anchors_wh=anchors_in(spec))


def anchors_in(spec: ModelSpec) -> Anchors | None:
    """The anchors that a record holds; None if its model has none."""
    return head_of(spec.decode).anchors_wh


def anchors_of(name: str) -> Anchors | None:
    """The anchors that a model is published with, per level, finest first, in input pixels; None if it has none.

    Raises:
        UnknownNameError: no such model.
    """
    anchors_wh: Anchors | None = getattr(family_module(name).VARIANTS[name], "anchors_wh", None)
    return anchors_wh


def learning_rate_of(name: str) -> float:
    """The peak learning rate that suits a model with AdamW and batches of 8; its config's, 0.001 if that says nothing.

    Raises:
        UnknownNameError: no such model.
    """
    return float(getattr(family_module(name).VARIANTS[name], "learning_rate", 1e-3))


def load_pretrained(
    name: str, path: str | Path, *, num_classes: int | None = None, activation: str | None = None
) -> DetectorNetwork:
    """A detector with the weights of an official checkpoint, in training form and eval mode. Nothing in it is run.

    Args:
        path: as the authors publish it: `.pt`, `.pth`, `.pdparams` of PaddleDetection, or `.weights` of darknet.
        num_classes: K, None for the file's; with another K the outputs are made anew, and a warning says so.
        activation: as for `create`.

    Raises:
        UnknownNameError, UsageError: as for `create`, or nothing is published for this model.
        CheckpointError: unreadable, of another model, or it asks for more than tensors and containers.
    """
    published = _published(name)
    weights = read_weights(Path(path))
    if num_classes is None:
        num_classes = published.count_classes(family_module(name).VARIANTS[name], weights.tensors)
    model = create(name, num_classes or 80, activation=activation)
    place_weights(model, published, weights)
    model.eval()
    return model


@dataclasses.dataclass(frozen=True)
class DarknetModel:
    """What a cfg and its weights are.

    Attributes:
        network: in training form and eval mode; a model of the registry where one has these layers.
        image_hw: of the cfg, pixels.
        structure: the cfg, where no model of the registry has these layers; else "".
        origin: the file; whose it is, and under which licence, nobody says.
    """

    network: DetectorNetwork
    image_hw: tuple[int, int]
    structure: str
    origin: Origin


def load_darknet(cfg_path: Path, path: Path) -> DarknetModel:
    """The network of a darknet `.cfg`, with its classes and anchors, and the values of a `.weights`.

    Raises:
        CheckpointError: either cannot be read, describes what is not built here, or they are not of each other.
    """
    cfg = read_cfg(cfg_path)
    structure = without_training(cfg_path.read_text(encoding="utf-8", errors="replace"))
    network: DetectorNetwork = network_of(cfg, structure, cfg_path.stem)
    assert isinstance(network, CfgNetwork)
    own, published = network.config, OWN
    for name in model_names():
        family = family_module(name)
        if issubclass(family.Network, PlannedNetwork) and is_same(family.VARIANTS[name], own):
            network, structure = create(name, own.num_classes, anchors_wh=own.anchors_wh), ""
            published = family.PUBLISHED
            break
    place_weights(network, published, read_weights(path))
    origin = Origin(source=OWN.source, licence=OWN.licence, file=path.name, sha256=sha256_of(path))
    return DarknetModel(network.eval(), cfg.image_hw, structure, origin)


def load_official_weights(model: nn.Module, path: Path) -> list[str]:
    """Load an official checkpoint into a detector that `create` made; returns the names that keep fresh values.

    Raises:
        UsageError, CheckpointError: as for `load_pretrained`.
    """
    config: Any = model.config
    return place_weights(model, _published(config.name), read_weights(path))


def guess_models(path: Path) -> list[str]:
    """The models whose tensors, by name and shape, are those of an official file; usually one, none if it is of no
    model that is known.

    Raises:
        CheckpointError: unreadable, or it asks for more than tensors and containers.
    """
    weights = read_weights(path)
    return [name for name in model_names() if _fits(name, weights)]


def compare_models(weights: OfficialWeights) -> dict[str, Comparison]:
    """The models that a file may be of, by the output layers that it has, beside it; those that fit best come first."""
    compared = {name: _compare(name, weights) for name in model_names()}
    known = {name: found for name, found in compared.items() if found is not None}
    return dict(sorted(known.items(), key=lambda pair: sum(len(names) for names in pair[1].misfits.values())))


def origin_of(name: str, path: Path) -> Origin:
    """Whose official file this is, and under which licence.

    Raises:
        UnknownNameError, UsageError: as for `load_pretrained`.
    """
    published = _published(name)
    return Origin(source=published.source, licence=published.licence, file=path.name, sha256=sha256_of(path))


def family_of(name: str) -> str:
    """The name of the family that a model belongs to.

    Raises:
        UnknownNameError: no such model.
    """
    family_module(name)
    return families()[name]


def model_names() -> list[str]:
    """Names of the models known, family by family, each in its family's order."""
    return list(families())


def _check_anchors(config: Any, anchors_wh: Anchors) -> None:
    own: Anchors | None = getattr(config, "anchors_wh", None)
    if own is None:
        raise UsageError("has no anchors", where=config.name, hint="Leave them out")
    if [len(level) for level in anchors_wh] != [len(level) for level in own]:
        counts = ", ".join(str(len(level)) for level in own)
        raise UsageError("other numbers of anchors than it has", where=config.name, hint=f"Give {counts} per level")


def _published(name: str) -> Published:
    if not is_published(name):
        raise UsageError("no weights are published for it", where=name, hint="Give a checkpoint that edgeyolo wrote")
    published: Published = family_module(name).PUBLISHED
    return published


def _fits(name: str, weights: OfficialWeights) -> bool:
    compared = _compare(name, weights)
    return compared is not None and compared.fits


def _compare(name: str, weights: OfficialWeights) -> Comparison | None:
    """A model beside a file, of as many classes as that has; None where that is not to be told, nothing is published,
    or its boxes would be read wrongly."""
    if not is_published(name):
        return None
    published = _published(name)
    try:
        num_classes = published.count_classes(family_module(name).VARIANTS[name], weights.tensors)
        if not num_classes:
            return None
        with torch.device("meta"):
            model = create(name, num_classes)
        return compare_weights(model, published, weights)
    except CheckpointError:
        return None
