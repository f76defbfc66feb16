"""How large every model is, written down beside the registry, so that listing them builds none."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import torch

from edgeyolo.models._convolutions import list_convolutions
from edgeyolo.models._registry import families, family_module, image_hw_of_model, is_published, task_of
from edgeyolo.nn.fold import fold_in_place
from edgeyolo.spec.sizes import image_size_of
from edgeyolo.spec.work import Convolution, count_gflops

SIZES = Path(__file__).with_name("sizes.json")  # parameters in training and folded, GFLOPs; `make tables` writes it


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


def list_models() -> list[ModelInfo]:
    """Every model with its size and cost, as they were written down; one that was not is built and counted."""
    known = json.loads(SIZES.read_text(encoding="utf-8"))
    return [_describe(name, *known[name]) if name in known else measure_model(name) for name in families()]


def measure_model(name: str) -> ModelInfo:
    """A model with its size and cost, counted; the network is built without memory for weights.

    Raises:
        UnknownNameError: no such model.
    """
    return _measure(name)[0]


def convolutions_of(name: str) -> tuple[Convolution, ...]:
    """What the folded network computes for a picture of its own size, with the classes of COCO, in float.

    Raises:
        UnknownNameError: no such model.
    """
    return _measure(name)[1]


@functools.cache
def _measure(name: str) -> tuple[ModelInfo, tuple[Convolution, ...]]:
    with torch.device("meta"):
        module = family_module(name)
        model = module.Network(module.VARIANTS[name])
    parameters_training = sum(p.numel() for p in model.parameters() if p.requires_grad)
    deploy = fold_in_place(model)
    convolutions = list_convolutions(deploy, image_hw_of_model(name))
    parameters_deploy = sum(p.numel() for p in deploy.parameters())
    return _describe(name, parameters_training, parameters_deploy, count_gflops(convolutions)), tuple(convolutions)


def _describe(name: str, parameters_training: int, parameters_deploy: int, gflops: float) -> ModelInfo:
    return ModelInfo(
        name=name,
        family=families()[name],
        task=task_of(name),
        image_size=image_size_of(image_hw_of_model(name)),
        parameters_training=parameters_training,
        parameters_deploy=parameters_deploy,
        gflops=gflops,
        licence=family_module(name).PUBLISHED.licence if is_published(name) else "none published",
    )
