"""`qparams.json`: one scale per tensor group, one per output channel of each weight. Neutral between engines.

Symmetric, zero-point 0, integers in [-(2^(bits-1) - 1), 2^(bits-1) - 1]; real value = scale x integer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgeyolo.spec.calibration_finding import CalibrationFinding
from edgeyolo.spec.errors import FormatError
from edgeyolo.spec.recipe import QatRecipe
from edgeyolo.spec.strict import encode_json, load_json

FORMAT_VERSION = 1


class TensorGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tensors that must carry one scale.

    Attributes:
        tensors: names in model.onnx, every one that a quantized layer reads.
        scale: real value of one integer step, > 0.
        how: what set it, such as "mse" or "max" or "qat".
    """

    tensors: tuple[str, ...]
    scale: float
    bits: int = 8
    how: str


class WeightScales(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Scales of one weight initializer of model.onnx: one per index of `axis` (output channels), each > 0."""

    scales: tuple[float, ...]
    axis: int = 0
    bits: int = 8
    how: str


class LayerPrecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one Conv or Gemm node of model.onnx runs.

    Attributes:
        weight: name of its weight initializer, a key of `QParams.weights` if int8.
        group: key of `QParams.groups` whose scale its input carries; "" if float.
        why: the reason, for people.
    """

    precision: Literal["int8", "float"]
    weight: str
    group: str = ""
    why: str = ""


class QatRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the weights were trained with the scales frozen.

    Attributes:
        best_epoch: the epoch whose weights these are, counted from 1.
        ap_start, ap_best: fake-quant AP on the validation split before training and of these weights, percent.
    """

    recipe: QatRecipe
    best_epoch: int
    ap_start: float
    ap_best: float


class CalibrationRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the scales come from.

    Attributes:
        method: "ptq" or "qat".
        pictures: image id -> sha256 of the file, in the order used.
        qat: the training that followed, None if `method` is "ptq".
        findings: what is wrong with the pictures; none where nothing is, or nobody looked.
    """

    recipe: str
    method: str
    count: int
    seed: int
    pictures: dict[str, str]
    qat: QatRecord | None = None
    findings: tuple[CalibrationFinding, ...] = ()


class QParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file.

    Attributes:
        groups: "g0", "g1" ... -> tensors with one scale.
        weights: initializer name -> its scales.
        layers: module path of each convolution or linear layer -> how it runs.
    """

    format_version: int = FORMAT_VERSION
    onnx_sha256: str
    groups: dict[str, TensorGroup]
    weights: dict[str, WeightScales]
    layers: dict[str, LayerPrecision]
    calibration: CalibrationRecord


def load_qparams(path: Path) -> QParams:
    """Read and check `qparams.json`.

    Raises:
        FormatError: not valid, of a newer version, a scale that is not a positive number, or a dangling name.
    """
    qparams = load_json(path, QParams)
    check_qparams(qparams, where=path)
    return qparams


def save_qparams(qparams: QParams, path: Path) -> None:
    """Write `qparams.json` (to a path inside a folder that is itself replaced atomically)."""
    path.write_bytes(encode_json(qparams))


def check_qparams(qparams: QParams, *, where: object = "qparams") -> None:
    """Raise FormatError if versions, scales or references between parts do not hold."""
    if qparams.format_version > FORMAT_VERSION:
        raise FormatError(
            f"format version {qparams.format_version} is newer than {FORMAT_VERSION}",
            where=where,
            hint="Update edgeyolo",
        )
    scales: dict[str, tuple[float, ...]] = {f"group {k}": (g.scale,) for k, g in qparams.groups.items()}
    scales |= {f"weight {k}": w.scales for k, w in qparams.weights.items()}
    for name, values in scales.items():
        if not values or not all(0.0 < v < float("inf") for v in values):
            raise FormatError(f"{name} has a scale that is not a positive finite number", where=where)
    for name, layer in qparams.layers.items():
        if layer.precision == "int8" and (layer.group not in qparams.groups or layer.weight not in qparams.weights):
            raise FormatError(f"layer {name} is int8 but its group or weight is not listed", where=where)
