"""In: a name and a number of classes. Out: a network, (B, 3, H, W) -> raw per-level maps. Verb: `models.create`.

The folder is the registry: every module or package here without a leading underscore is a family, with `VARIANTS`,
name -> frozen config dataclass (`name`, `num_classes`, `activation`, `image_size` among its fields), `Network(config)`,
and, where its authors publish weights, `PUBLISHED`, which says how to read them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edgeyolo.heads import Anchors, head_of
from edgeyolo.models._cfg import OWN, CfgNetwork, is_same, network_of
from edgeyolo.models._companion import Accompanied, Companion
from edgeyolo.models._convolutions import list_convolutions
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.models._planned import PlannedNetwork
from edgeyolo.nn.fold import fold_in_place
from edgeyolo.spec.errors import CheckpointError, UnknownNameError, UsageError
from edgeyolo.spec.model import ModelSpec, Origin
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.sizes import image_size_of
from edgeyolo.spec.work import Convolution, count_gflops
from edgeyolo.weights.darknet_cfg import parse_cfg, read_cfg, without_training
from edgeyolo.weights.pretrained import (
    Comparison,
    OfficialWeights,
    Published,
    compare_weights,
    place_weights,
    read_weights,
)

SIZES = Path(__file__).with_name("sizes.json")  # of every model; `make tables` writes it

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


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """A model of the registry with the classes of COCO, or its joints.

    Attributes:
        task: what it is for: detection or keypoints.
        image_size: side in pixels of the square input it is meant for, or its height and width; `gflops` is for that.
        parameters_training: trainable parameters, auxiliary heads included.
        parameters_deploy: parameters once folded.
        gflops: of the folded network's convolutions, in 1e9, a multiplication and an addition counted as two.
        licence: of the weights that its authors publish, an SPDX name; "none published" where there are none.
    """

    name: str
    family: str
    task: str
    image_size: int | str
    parameters_training: int
    parameters_deploy: int
    gflops: float
    licence: str


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
    module = _family_of(name)
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
    anchors_wh: Anchors | None = getattr(_family_of(name).VARIANTS[name], "anchors_wh", None)
    return anchors_wh


def learning_rate_of(name: str) -> float:
    """The peak learning rate that suits a model with AdamW and batches of 8; its config's, 0.001 if that says nothing.

    Raises:
        UnknownNameError: no such model.
    """
    return float(getattr(_family_of(name).VARIANTS[name], "learning_rate", 1e-3))


def task_of(name: str) -> str:
    """What a model is for: detection or keypoints.

    Raises:
        UnknownNameError: no such model.
    """
    return str(_family_of(name).Network.task)


def image_hw_of_model(name: str) -> tuple[int, int]:
    """Height and width of the input that a model is meant for, pixels.

    Raises:
        UnknownNameError: no such model.
    """
    config: Any = _family_of(name).VARIANTS[name]
    height, width = getattr(config, "image_hw", (config.image_size, config.image_size))
    return height, width


def is_published(name: str) -> bool:
    """Whether the authors of a model publish weights, and in a form that is read here.

    Raises:
        UnknownNameError: no such model.
    """
    published: Published | None = getattr(_family_of(name), "PUBLISHED", None)
    return published is not None and name in published.variants


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
        num_classes = published.count_classes(_family_of(name).VARIANTS[name], weights.tensors)
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
        family = _family_of(name)
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
    _family_of(name)
    return _families()[name]


def model_names() -> list[str]:
    """Names of the models known, family by family, each in its family's order."""
    return list(_families())


def list_models() -> list[ModelInfo]:
    """Every model with its size and cost, as they were written down; one that was not is built and counted."""
    known = json.loads(SIZES.read_text(encoding="utf-8")) if SIZES.exists() else {}
    return [_describe(name, *known[name]) if name in known else measure_model(name) for name in model_names()]


def measure_model(name: str) -> ModelInfo:
    """A model with its size and cost, counted; the network is built without memory for weights.

    Raises:
        UnknownNameError: no such model.
    """
    return _measure(name)[0]


def _family_of(name: str) -> ModuleType:
    families = _families()
    if name not in families:
        raise UnknownNameError("model", name, families)
    return importlib.import_module(f"{__name__}.{families[name]}")


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
    published: Published = _family_of(name).PUBLISHED
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
        num_classes = published.count_classes(_family_of(name).VARIANTS[name], weights.tensors)
        if not num_classes:
            return None
        with torch.device("meta"):
            model = create(name, num_classes)
        return compare_weights(model, published, weights)
    except CheckpointError:
        return None


def _licence_of(name: str) -> str:
    return _published(name).licence if is_published(name) else "none published"


@functools.cache
def _families() -> dict[str, str]:
    """Model name -> name of the module it is defined in."""
    modules = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {name: module for module in modules for name in _variants(module)}


def _variants(module_name: str) -> list[str]:
    module: ModuleType = importlib.import_module(f"{__name__}.{module_name}")
    return list(module.VARIANTS)


def convolutions_of(name: str) -> tuple[Convolution, ...]:
    """What the folded network computes for a picture of its own size, with the classes of COCO, in float.

    Raises:
        UnknownNameError: no such model.
    """
    return _measure(name)[1]


@functools.cache
def _measure(name: str) -> tuple[ModelInfo, tuple[Convolution, ...]]:
    with torch.device("meta"):
        model = create(name, _family_of(name).VARIANTS[name].num_classes)
    parameters_training = sum(p.numel() for p in model.parameters() if p.requires_grad)
    deploy = fold_in_place(model)
    convolutions = list_convolutions(deploy, image_hw_of_model(name))
    parameters_deploy = sum(p.numel() for p in deploy.parameters())
    return _describe(name, parameters_training, parameters_deploy, count_gflops(convolutions)), tuple(convolutions)


def _describe(name: str, parameters_training: int, parameters_deploy: int, gflops: float) -> ModelInfo:
    return ModelInfo(
        name=name,
        family=_families()[name],
        task=task_of(name),
        image_size=image_size_of(image_hw_of_model(name)),
        parameters_training=parameters_training,
        parameters_deploy=parameters_deploy,
        gflops=gflops,
        licence=_licence_of(name),
    )
