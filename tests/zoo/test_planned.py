"""The families that are plans of darknet's layers: numbers of layers, and what their files hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeyolo import models
from edgeyolo.models import scaled_yolov4, yolor, yolov3, yolov4
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.plan import Conv, Vector, count_values, trace_shapes
from edgeyolo.spec.model import Origin

FAMILIES = (yolov3, yolov4, scaled_yolov4, yolor)
DARKNETS = [name for family in FAMILIES[:3] for name in family.VARIANTS]
NAMES = [*DARKNETS, *yolor.VARIANTS]


@pytest.mark.parametrize(("name", "first"), [("yolor-csp", 164), ("yolor-csp-x", 192), ("yolor-p6", 203)])
def test_layers_of_yolor_have_the_numbers_of_its_files(name: str, first: int) -> None:
    """The first vector's, behind all of the backbone and the neck."""
    with torch.device("meta"):
        layers = models.create(name, 80).layers
    assert next(index for index, layer in enumerate(layers) if isinstance(layer, Vector)) == first


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_a_value_for_every_tensor(name: str) -> None:
    """Parts are named after their layers, and nothing that a `.weights` holds has no place."""
    with torch.device("meta"):
        model = models.create(name, 80)
    shapes = trace_shapes(model.layers)
    values = sum(
        count_values(layer, 3 if not layer.reads or layer.reads[0] < 0 else shapes[layer.reads[0]].chs)
        for layer in model.layers
    )
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert values == sum(value.numel() for value in state.values())
    convs = sum(isinstance(layer, Conv) for layer in model.layers)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convs


def test_implicit_knowledge_folds_away() -> None:
    with torch.device("meta"):
        folded = fold_model(models.create("yolor-csp", 80))
    assert {type(output) for output in folded.outputs} == {nn.Conv2d}


def test_weights_of_darknet_may_be_shipped_and_those_of_yolor_not() -> None:
    origins = {family: Origin(source="", licence=family.PUBLISHED.licence, file="", sha256="") for family in FAMILIES}
    assert [origin.is_permissive for origin in origins.values()] == [True, True, True, False]
    assert not models.is_published("yolov4-p7") and models.is_published("yolov4-p6")
