"""What a layer costs on a core, in instructions: a small linear model, fitted to counts on the emulated core.

One file per core beside this one, written by `benchmarks/arm_table.py`. Instructions are no milliseconds: they say
which of two ways to compute one layer is shorter, not how long either takes.

Source: github.com/Tencent/ncnn, src/layer/arm/convolution_arm.cpp (which winograd for which number of channels).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgeyolo.backends.ncnn.files import Layer
from edgeyolo.spec.errors import FormatError, UnknownNameError
from edgeyolo.spec.strict import decode_toml

Way = Literal[
    "fp32",
    "fp16",
    "bf16",
    "fp32-direct",
    "fp16-direct",
    "bf16-direct",
    "int8",
    "int8-direct",
    "chained",
    "chained-direct",
]

_FOLDER = Path(__file__).with_name("costs")
_DEPTHWISE = " depthwise"
_DIRECT = 16  # outputs up to which a strided convolution of floats is no matrix product: half the work on an A53
_NARROW = 128  # channels up to which the engine takes winograd F(6,3) for floats


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Instructions for each of what a layer computes.

    Attributes:
        tile: outputs come in whole tiles of so many, in each direction, as winograd computes them.
        products: for each multiplication and addition of a direct convolution.
        taken: for each number that one output channel reads.
        given: for each output number.
        weights: for each weight.
        fixed: for the layer.
        count: layers it was fitted to.
        error: median relative error on layers that it was not fitted to, at most so large for nine of ten in error_p90.
    """

    tile: int = 1
    products: float = 0.0
    taken: float = 0.0
    given: float = 0.0
    weights: float = 0.0
    fixed: float = 0.0
    count: int = 0
    error: float = 0.0
    error_p90: float = 0.0


class CoreCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A core.

    Attributes:
        source: what was counted, with which engine.
        convolutions: kind of convolution (see `convolution_kind`) -> how it is computed -> its rates. `int8` takes int8
            and gives float; `chained` gives int8 as well; `-direct` goes without winograd.
        quantize: a float tensor to int8, for each number of it.
        quantize_result: the same of a tensor that an int8 convolution gave.
        cast: what a float layer pays to read a number that an int8 convolution gave.
    """

    source: str
    convolutions: dict[str, dict[Way, Rates]]
    quantize: float
    quantize_result: float
    cast: float


def list_cores() -> list[str]:
    """Cores with a table."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_costs(core: str) -> CoreCosts:
    """The table of a core, such as "cortex-a76".

    Raises:
        UnknownNameError: none of that name. FormatError: its file is not valid.
    """
    if core not in list_cores():
        raise UnknownNameError("core with counted costs", core, list_cores())
    path = _FOLDER / f"{core}.toml"
    try:
        return decode_toml(path.read_bytes(), CoreCosts, where=path)
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", where=path) from None


def convolution_kind(layer: Layer, in_chs: int) -> str:
    """The kind that a table may know it by (see `size_kind`); "" for what no table has."""
    width, stride, out_chs = layer.integer(1), layer.integer(3, 1), layer.integer(0)
    is_square = layer.integer(11, width) == width and layer.integer(13, stride) == stride
    if not is_square or layer.integer(2, 1) != 1:
        return ""
    if layer.kind == "ConvolutionDepthWise" and layer.integer(7, 1) == in_chs == out_chs:
        return depthwise_kind(width, stride)
    return size_kind(width, stride, in_chs, out_chs) if layer.kind == "Convolution" else ""


def size_kind(kernel: int, stride: int, in_chs: int, out_chs: int) -> str:
    """Kernel, stride, and what else decides which code the engine runs: "1x1", "3x3 wide", "3x3/2 narrow"."""
    if stride > 1:
        is_narrow = out_chs <= _DIRECT and kernel > 1
        return f"{kernel}x{kernel}/{stride}" + (" of 3" if in_chs == 3 else " narrow" if is_narrow else "")
    return f"{kernel}x{kernel}" + (" wide" if kernel == 3 and max(in_chs, out_chs) > _NARROW else "")


def depthwise_kind(kernel: int, stride: int) -> str:
    """Of a convolution with one filter for each channel: "3x3 depthwise", "5x5/2 depthwise"."""
    return f"{kernel}x{kernel}" + (f"/{stride}" if stride > 1 else "") + _DEPTHWISE


def count_work(kind: str, tile: int, in_chs: int, out_chw: tuple[int, ...]) -> tuple[float, ...]:
    """What the rates are multiplied with: products, numbers taken, numbers given, weights, 1."""
    out_chs, height, width = out_chw
    outputs = float(-(-height // tile) * -(-width // tile) * tile**2)
    read = (1 if kind.endswith(_DEPTHWISE) else in_chs) * int(kind[0]) ** 2
    return outputs * read * out_chs, outputs * read, outputs * out_chs, float(read * out_chs), 1.0


def instructions(rates: Rates, kind: str, in_chs: int, out_chw: tuple[int, ...]) -> float:
    """What a layer costs."""
    per = (rates.products, rates.taken, rates.given, rates.weights, rates.fixed)
    return sum(rate * n for rate, n in zip(per, count_work(kind, rates.tile, in_chs, out_chw), strict=True))
