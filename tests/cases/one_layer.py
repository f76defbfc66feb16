"""One-layer ONNX models with hand-made scales, and an integer reference in plain numpy."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import CalibrationRecord, LayerPrecision, QParams, TensorGroup, WeightScales

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass
class OneLayer:
    """images -> one Conv "body.conv" -> map_0.

    Attributes:
        step: scale of the input.
        bits: of the weights.
    """

    out_chs: int = 16
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    step: float = 1 / 127
    bits: int = 8
    activation: str = ""
    image_hw: tuple[int, int] = (12, 20)
    opset: int = 17
    seed: int = 0
    weight: np.ndarray = dataclasses.field(init=False)
    bias: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        shape = (self.out_chs, 3 // self.groups, self.kernel, self.kernel)
        self.weight = random.normal(0, 0.3, shape).astype(np.float32)
        self.bias = random.normal(0, 0.3, self.out_chs).astype(np.float32)

    def images(self, count: int = 2) -> np.ndarray:
        return np.random.default_rng(9).uniform(-0.2, 1.0, (count, 3, *self.image_hw)).astype(np.float32)

    def write(self, folder: Path) -> tuple[Path, QParams]:
        pad, body = self.kernel // 2, "raw" if self.activation else "map_0"
        nodes = [
            helper.make_node(
                "Conv",
                ["images", "body.conv.weight", "body.conv.bias"],
                [body],
                kernel_shape=[self.kernel] * 2,
                strides=[self.stride] * 2,
                pads=[pad] * 4,
                group=self.groups,
            )
        ]
        if self.activation:
            nodes.append(helper.make_node(self.activation, ["raw"], ["map_0"]))
        graph = helper.make_graph(
            nodes,
            "one",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *self.image_hw])],
            [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [1, None, None, None])],
            [
                numpy_helper.from_array(self.weight, "body.conv.weight"),
                numpy_helper.from_array(self.bias, "body.conv.bias"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        path = folder / "model.onnx"
        onnx.save(model, path)
        return path, self.qparams(path)

    def weight_steps(self) -> np.ndarray:
        widest = np.abs(self.weight).max(axis=(1, 2, 3))
        return np.where(widest > 0, widest / (2 ** (self.bits - 1) - 1), 1).astype(np.float32)

    def qparams(self, path: Path) -> QParams:
        scales = tuple(self.weight_steps().tolist())
        return QParams(
            onnx_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            groups={"g0": TensorGroup(tensors=("images",), scale=self.step, how="hand")},
            weights={"body.conv.weight": WeightScales(scales=scales, bits=self.bits, how="hand")},
            layers={"body.conv": LayerPrecision(precision="int8", weight="body.conv.weight", group="g0")},
            calibration=CalibrationRecord(recipe="hand", method="ptq", count=0, seed=0, pictures={}),
        )

    def expected(self, images: np.ndarray) -> np.ndarray:
        """Integers multiplied in int64, scaled once at the end."""
        limit = 2 ** (self.bits - 1) - 1
        steps = self.weight_steps().astype(np.float64)
        inputs = np.clip(np.rint(images.astype(np.float64) / self.step), -127, 127).astype(np.int64)
        weights = np.clip(np.rint(self.weight / steps[:, None, None, None]), -limit, limit).astype(np.int64)
        pad, chs, per_group = self.kernel // 2, 3 // self.groups, self.out_chs // self.groups
        padded = np.pad(inputs, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (self.kernel, self.kernel), axis=(2, 3))
        windows = windows[:, :, :: self.stride, :: self.stride]
        sums = np.concatenate(
            [
                np.einsum(
                    "bchwij,ocij->bohw",
                    windows[:, group * chs : (group + 1) * chs],
                    weights[group * per_group : (group + 1) * per_group],
                )
                for group in range(self.groups)
            ],
            axis=1,
        )
        maps = sums * (steps * self.step)[:, None, None] + self.bias[:, None, None]
        if self.activation == "Relu":
            return np.maximum(maps, 0)
        if self.activation == "LeakyRelu":
            return np.where(maps > 0, maps, 0.01 * maps)
        return maps


@pytest.fixture
def one_layer() -> type[OneLayer]:
    return OneLayer


@dataclasses.dataclass(frozen=True)
class QuantizedModel:
    """A model of the zoo with random weights, as `quantize` exports it."""

    folder: Path
    spec: ModelSpec


def settle(model: torch.nn.Module, images: torch.Tensor) -> None:
    """Batch norms that normalise, and heads that differ from cell to cell and see objects here and there."""
    import torch

    def take_statistics(norm: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)).clamp_min(1e-2))

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None:  # of the heads
            torch.nn.init.normal_(layer.bias)
            torch.nn.init.normal_(layer.weight, std=0.02 * layer.weight[0].numel() ** -0.5)
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()


def make_quantized(
    name: str, size: int, folder: Path, *, settled: bool = True, classes: int = 3, dynamic_batch: bool = False
) -> QuantizedModel:
    """Write one into `folder`.

    Args:
        name: of a model, or a thin one as `thin.make_network` knows it.
        settled: as `settle` leaves it. False leaves all as it is made, which is enough to build from.
    """
    import torch
    from thin import make_network

    from edgeyolo.export import export_model
    from edgeyolo.quantization import quantize
    from edgeyolo.spec.recipe import Recipe

    torch.manual_seed(0)
    model = make_network(name, classes).eval()
    spec = ModelSpec(
        name=model.config.name,
        activation=model.config.activation,
        class_names=tuple("abcdefgh"[:classes]),
        input=model.make_input_spec((size, size)),
        decode=model.decode,
    )
    coarse, fine = (torch.rand(2, 3, side, side) for side in (4, size))
    pictures = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear") + 0.1 * fine
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.input.mean, spec.input.std))
    images = (pictures - mean) / std
    if settled:
        settle(model, images)
    recipe = Recipe(title="random pictures", observer="max", count=2)
    quantized = quantize(model, [images.numpy()], recipe, recipe_name="max", picture_hashes={"0": "", "1": ""})
    export_model(quantized, spec, folder, dynamic_batch=dynamic_batch)
    return QuantizedModel(folder, spec)


@pytest.fixture(scope="session")
def quantized_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., QuantizedModel]:
    """Makes one by name and image size, and keeps the latest."""
    return functools.lru_cache(maxsize=3)(
        lambda name, size: make_quantized(name, size, tmp_path_factory.mktemp(name) / "int8")
    )


@pytest.fixture
def fresh_model() -> Callable[..., QuantizedModel]:
    """`make_quantized` itself, which keeps nothing: the largest models weigh gigabytes."""
    return make_quantized
