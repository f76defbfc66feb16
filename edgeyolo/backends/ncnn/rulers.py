"""Rulers: small networks of one kind of layer each, to compare this computer with another by.

How long a network takes here says how long it takes elsewhere once it is known how much faster elsewhere is; and a
processor is not faster by one factor, but by one for each kind of layer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from edgeyolo.backends.engine import Ruler
from edgeyolo.backends.ncnn.files import INT8_TERM_KEY, Layer, format_param
from edgeyolo.backends.ncnn.work import list_convolutions
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.packages import import_package

_DEPTH = 4  # layers of a ruler
_KERNELS = {"pointwise": 1, "spatial": 3, "depthwise": 3}
_CHANNELS, _SIDE = 128, {"pointwise": 40, "spatial": 20, "depthwise": 80}
_IN_INT8 = ("pointwise", "spatial")


def open_rulers() -> dict[str, Ruler]:
    """By name, such as "spatial int8".

    Raises:
        MissingPackageError: ncnn is not installed. BackendError: it cannot run one.
    """
    engine = import_package("ncnn", needed_for="timing ncnn networks here", extra="ncnn")
    names = [(kind, False) for kind in _KERNELS] + [(kind, True) for kind in _IN_INT8]
    return {kind + (" int8" if is_int8 else ""): _open(engine, kind, is_int8) for kind, is_int8 in names}


def _open(engine: Any, kind: str, is_int8: bool) -> Ruler:
    net = engine.Net()
    net.opt.num_threads = 1
    layers = _layers(kind, is_int8)
    if net.load_param_mem(format_param(layers)) != 0 or net.load_model(engine.DataReaderFromEmpty()) != 0:
        raise BackendError(f"ncnn cannot load the ruler '{kind}'", hint="Install another version of ncnn")
    picture = np.full((_CHANNELS, _SIDE[kind], _SIDE[kind]), 0.1, np.float32)
    mat, last = engine.Mat(picture).clone(), layers[-1].outputs[0]

    def run() -> object:
        extractor = net.create_extractor()
        extractor.input("in0", mat)
        return extractor.extract(last)

    return Ruler(run, tuple(list_convolutions(layers, dict.fromkeys(("in0", *_blobs()), picture.shape))))


def _layers(kind: str, is_int8: bool) -> list[Layer]:
    kernel, blobs = _KERNELS[kind], ["in0", *_blobs()]
    is_depthwise = kind == "depthwise"
    weights = _CHANNELS * kernel**2 * (1 if is_depthwise else _CHANNELS)
    params: dict[int, Any] = {0: _CHANNELS, 1: kernel, 4: kernel // 2, 5: 1, 6: weights, 9: 1}
    if is_depthwise:
        params[7] = _CHANNELS
    if is_int8:
        params[INT8_TERM_KEY] = 2
    operator = "ConvolutionDepthWise" if is_depthwise else "Convolution"
    first = Layer("Input", "in0", (), ("in0",), {0: _SIDE[kind], 1: _SIDE[kind], 2: _CHANNELS})
    return [first, *(Layer(operator, after, (before,), (after,), params) for before, after in pairwise(blobs))]


def _blobs() -> list[str]:
    return [f"b{index}" for index in range(_DEPTH)]
