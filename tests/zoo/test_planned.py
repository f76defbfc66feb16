"""The families that are plans of darknet's layers: sizes as published, numbers of layers, and what their files hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeyolo import models
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.plan import Conv, Vector, count_values, trace_shapes

# name: trainable parameters, after folding, published GFLOPs at the model's own size (None where none are).
PUBLISHED: dict[str, tuple[int, int, float | None]] = {
    "yolov3": (61_949_149, 61_922_845, 65.9),
    "yolov3-spp": (62_998_749, 62_971_933, 141.5),
    "yolov3-tiny": (8_852_366, 8_849_182, 5.57),
    "yolov4": (64_363_101, 64_329_949, 128.5),
    "yolov4-tiny": (6_056_606, 6_053_502, 6.91),
    "yolov4-csp": (52_921_437, 52_889_053, 77.0),
    "yolov4x-mish": (99_751_053, 99_703_061, 222.0),
    "yolov4-p5": (70_830_684, 70_787_292, None),
    "yolov4-p6": (127_585_200, 127_519_280, None),
    # Published of p7 is the PyTorch release alone, which normalises what is joined in each of the neck's 7 stages and
    # the SPP once more: two numbers for each of 4,640 channels in training, one of them when folded.
    "yolov4-p7": (287_575_580 - 2 * 4640, 287_460_380 - 4640, None),
    # What is published as folded has the vectors still: 256 + 512 + 1024 before and 3 x 255 after the outputs, say.
    "yolor-csp": (52_923_994, 52_891_610 - (1792 + 765), None),
    "yolor-csp-x": (99_754_058, 99_706_066 - (2240 + 765), None),
    "yolor-p6": (37_265_016, 37_232_824 - (1792 + 1020), None),
    "yolor-w6": (79_873_400, 79_828_024 - (2560 + 1020), None),
}
DARKNETS = [name for name in PUBLISHED if not name.startswith("yolor")]


@pytest.fixture(scope="module")
def measured() -> dict[str, models.ModelInfo]:
    return {info.name: info for info in models.list_models()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str, measured: dict[str, models.ModelInfo]) -> None:
    training, deploy, gflops = PUBLISHED[name]
    info = measured[name]
    assert (info.parameters_training, info.parameters_deploy) == (training, deploy)
    if gflops is not None:
        assert info.gflops == pytest.approx(gflops, rel=0.01)


@pytest.mark.parametrize("name", PUBLISHED)
def test_normalisation_is_the_authors(name: str) -> None:
    with torch.device("meta"):
        norms = [m for m in models.create(name, 2).modules() if isinstance(m, nn.BatchNorm2d)]
    wanted = (1e-5, 0.1) if name in DARKNETS else (1e-3, 0.03)
    assert {(norm.eps, norm.momentum) for norm in norms} == {wanted}


@pytest.mark.parametrize(("name", "first"), [("yolor-csp", 164), ("yolor-csp-x", 192), ("yolor-p6", 203)])
def test_layers_of_yolor_have_the_numbers_of_its_files(name: str, first: int) -> None:
    """The first vector's, behind all of the backbone and the neck."""
    with torch.device("meta"):
        layers = models.create(name, 80).layers
    assert next(index for index, layer in enumerate(layers) if isinstance(layer, Vector)) == first


@pytest.mark.parametrize("name", PUBLISHED)
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


def test_weights_of_darknet_may_be_shipped_and_those_of_yolor_not(measured: dict[str, models.ModelInfo]) -> None:
    assert {measured[name].licence for name in DARKNETS} == {"LicenseRef-public-domain", "none published"}
    assert {measured[name].licence for name in PUBLISHED if name not in DARKNETS} == {"GPL-3.0"}
    assert not models.is_published("yolov4-p7") and models.is_published("yolov4-p6")
