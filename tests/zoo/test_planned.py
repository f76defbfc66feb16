"""The families that are plans of darknet's layers: numbers of layers, and what their files hold."""

from __future__ import annotations

import pytest
import torch
from thin import make_network
from torch import nn
from torch.nn import functional

from edgeyolo import models
from edgeyolo.models import scaled_yolov4, yolor, yolov3, yolov4
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.plan import Conv, Vector, count_values, find_outputs, trace_shapes
from edgeyolo.nn.planned import seen_through
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


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("yolov4-csp", (141, 156, 171)),
        ("yolov4x-mish", (165, 182, 199)),
        ("yolov4-p5", (205, 218, 231)),
        ("yolov4-p6", (249, 262, 275, 288)),
        ("yolor-p6", (163, 176, 189, 202)),
    ],
)
def test_outputs_read_the_layers_that_the_authors_files_number(name: str, ends: tuple[int, ...]) -> None:
    """A `.weights` is in the order of these numbers, and outputs before or behind the neck's end change all of them."""
    with torch.device("meta"):
        layers = models.create(name, 80).layers
    sources = [output.source for output in find_outputs(layers)]
    assert tuple(seen_through(layers, layers[source].reads[0]) for source in sources) == ends


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
    assert [name for name in NAMES if not models.is_published(name)] == ["yolov4-p7", "yolor-e6", "yolor-d6"]


def test_blocks_that_are_normalised_once_more_are_what_their_authors_compute() -> None:
    """Their stage joins two bare maps, normalises what is joined and activates it; here each half alone, alike."""
    torch.manual_seed(0)
    network = make_network("yolor-e6, thin", 2).double().eval()
    body = network.backbone
    norm = next(step for step in body.steps if step.name.startswith("norm_"))
    join = next(step for step in body.steps if norm.index in step.reads)
    skip = body.get_submodule(f"conv_{join.reads[1]}")
    own = body.get_submodule(norm.name)
    for bn in (own.bn, skip.bn):
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    both = nn.BatchNorm2d(own.bn.num_features + skip.bn.num_features, eps=own.bn.eps).double().eval()
    for name, value in [*both.named_parameters(), *both.named_buffers()]:
        if value.ndim:
            value.data.copy_(torch.cat([getattr(part.bn, name).data for part in (own, skip)]))
    inner, given = (
        torch.randn(2, own.bn.num_features, 8, 8).double(),
        torch.randn(2, skip.conv.in_channels, 8, 8).double(),
    )
    expected = functional.silu(both(torch.cat((inner, skip.conv(given)), dim=1)))
    torch.testing.assert_close(torch.cat((own(inner.clone()), skip(given)), dim=1), expected)
    torch.testing.assert_close(own.fold()(inner), expected[:, : own.bn.num_features])
