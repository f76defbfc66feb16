"""YOLOv1, YOLOv2 and PP-YOLO: published sizes and cost, what their blocks compute, and where they start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.heads import head_of
from edgeyolo.nn.coord import CoordConv
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.mobilenet import SqueezeExcite
from edgeyolo.nn.reorg import PassthroughConv

# Trainable parameters in training form, and after folding.
PUBLISHED = {
    "ppyolo-tiny": (1_086_147, 1_078_155),
    "ppyolo-mbv3-s": (2_719_628, 2_712_628),
    "ppyolo-mbv3-l": (4_759_524, 4_746_700),
    "ppyolo-r18": (13_135_838, 13_129_502),
    "ppyolo-r50-dcn": (47_045_559, 47_009_975),
    "ppyolov2-r50-dcn": (54_579_383, 54_534_583),
    "ppyolov2-r101-dcn": (73_571_511, 73_500_599),
}
# Numbers in the authors' files of weights, statistics among them, by the sizes of these files; and their GFLOPs.
DARKNET = {"yolov2": ((203_934_260 - 16) // 4, 29.5), "yolov2-tiny": ((44_948_600 - 20) // 4, 5.4)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    info = models.measure_model(name)
    assert (info.parameters_training, info.parameters_deploy) == PUBLISHED[name]


@pytest.mark.parametrize("name", DARKNET)
def test_yolov2_has_as_many_numbers_as_its_file_and_its_cost(name: str) -> None:
    with torch.device("meta"):
        state = models.create(name, 80).state_dict()
    count, gflops = DARKNET[name]
    assert sum(value.numel() for key, value in state.items() if "num_batches" not in key) == count
    assert models.measure_model(name).gflops == pytest.approx(gflops, rel=0.01)


def plain_coordinates(height: int, width: int) -> Tensor:
    rows = [[[2 * c / (width - 1) - 1 for c in range(width)] for _ in range(height)]]
    rows += [[[2 * r / (height - 1) - 1 for _ in range(width)] for r in range(height)]]
    return torch.tensor(rows)[None]


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_convolution_that_knows_its_place_folds_into_a_sum(kernel_size: int) -> None:
    torch.manual_seed(0)
    block = CoordConv(3, 4, kernel_size, activation="relu").eval()
    x = torch.rand(2, 3, 5, 7)
    place = plain_coordinates(5, 7).expand(2, -1, -1, -1)
    wanted = F.conv2d(torch.cat((x, place), dim=1), block.conv.conv.weight, padding=kernel_size // 2)
    torch.testing.assert_close(block(x), F.relu(block.conv.bn(wanted)))
    torch.testing.assert_close(fold_model(torch.nn.Sequential(block))(x), block(x))


def test_a_map_of_one_cell_has_a_place_too() -> None:
    assert CoordConv(3, 4).eval()(torch.rand(1, 3, 1, 1)).isfinite().all()


def test_patches_of_a_finer_map_fold_into_a_wide_convolution() -> None:
    torch.manual_seed(0)
    block = PassthroughConv(3, 5, 4, activation="leaky_relu").eval()
    fine, coarse = torch.rand(2, 3, 8, 12), torch.rand(2, 5, 4, 6)
    patches = fine.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 5, 4, 1, 2, 3).reshape(2, 12, 4, 6)
    torch.testing.assert_close(block(fine, coarse), block.conv(torch.cat((patches, coarse), dim=1)))
    torch.testing.assert_close(block.fold()(fine, coarse), block(fine, coarse))


def test_the_slope_of_the_gate_folds_into_the_convolution() -> None:
    torch.manual_seed(0)
    block, x = SqueezeExcite(16), torch.randn(2, 16, 3, 3)
    with torch.no_grad():
        block.excite.weight.mul_(20)  # so that some gates are shut, and some wide open
    gates = block.excite(F.relu(block.squeeze(x.mean((2, 3), keepdim=True))))
    torch.testing.assert_close(block(x), x * (0.2 * gates + 0.5).clamp(0, 1))
    torch.testing.assert_close(block.fold()(x), block(x))


@pytest.mark.parametrize("name", ["yolov1-nano", "yolov2-nano", "ppyolo-tiny"])
def test_a_fresh_network_sees_few_objects(name: str) -> None:
    torch.manual_seed(0)
    model = models.create(name, 3).eval()
    with torch.no_grad():
        maps = [raw[0].numpy() for raw in model(torch.rand(1, 3, 320, 320))]
    _, scores, _ = head_of(model.decode).decode(maps, score_threshold=0.25)
    assert len(scores) < 10
