"""ncnn's two files as typed values: the .param text (layers and blobs) and the .bin (weights in layer order).

What is read here is checked here, because ncnn trusts its input and crashes where a file is wrong.

Source: github.com/Tencent/ncnn, docs/developer-guide/param-and-model-file-structure.md and operators.md.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.errors import BackendError

Number = int | float
Value = Number | tuple[Number, ...]
Array = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.int8]

MAGIC = 7767517
ARRAY_KEY = -23300  # key of an array parameter k is ARRAY_KEY - k
CONVOLUTIONAL = ("Convolution", "ConvolutionDepthWise", "InnerProduct")
INT8_TERM_KEY = 8
REQUANTIZED = 100  # added to the int8 term of a convolution that gives int8
MASK_KEY = 31  # options of the engine that a layer does without
WITHOUT_WINOGRAD = 1 << 6
_MAX_KEY = 31
_MAX_LAYERS = 20_000
_MAX_NAME = 255
_MAX_ARRAY = 4096
TAGS: dict[type[np.generic], int] = {np.float32: 0, np.float16: 0x01306B47, np.int8: 0x000D4B38}
_INTEGER = re.compile(r"[+-]?[0-9]{1,10}")


@dataclass(frozen=True, eq=False)
class Blob:
    """One run of numbers in the .bin.

    Attributes:
        values: (N,) float32, or float16 or int8 if tagged.
        tagged: preceded by a tag that states its type.
    """

    values: Array
    tagged: bool = False


@dataclass(frozen=True, eq=False)
class Layer:
    """One line of the .param, and its weights.

    Attributes:
        kind: ncnn's name of the operator, such as "Convolution".
        params: number -> value, as in ncnn's operator list.
        weights: in the order of the .bin.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: dict[int, Value]
    weights: tuple[Blob, ...] = ()

    def integer(self, key: int, default: int = 0) -> int:
        """An integer parameter.

        Raises:
            BackendError: it is there, and is not an integer.
        """
        value = self.params.get(key, default)
        if not isinstance(value, int):
            raise BackendError(f"parameter {key} is {value}, not an integer", where=self.name)
        return value

    def numbers(self, key: int) -> tuple[Number, ...]:
        """An array parameter, empty when absent; errors as in `integer`."""
        value = self.params.get(key, ())
        if not isinstance(value, tuple):
            raise BackendError(f"parameter {key} is {value}, not an array", where=self.name)
        return value


def parse_param(text: str, *, where: object) -> list[Layer]:
    """Layers of a .param, without weights.

    Raises:
        BackendError: not that format, or blobs that are not made exactly once before they are used exactly once.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or lines[0] != [str(MAGIC)]:
        raise BackendError(f"is not an ncnn param file (first line is not {MAGIC})", where=where)
    if len(lines[1]) != 2 or not all(_INTEGER.fullmatch(word) for word in lines[1]):
        raise BackendError("the second line is not a count of layers and of blobs", where=where)
    layer_count, blob_count = map(int, lines[1])
    if layer_count != len(lines) - 2 or not 0 < layer_count <= _MAX_LAYERS:
        raise BackendError(f"says {layer_count} layers and has {len(lines) - 2}", where=where)
    layers = [_parse_layer(words, where=f"{where}:{number}") for number, words in enumerate(lines[2:], 3)]
    made = _check_links(layers, where=where)
    if made != blob_count:
        raise BackendError(f"says {blob_count} blobs and has {made}", where=where)
    return layers


def format_param(layers: Sequence[Layer]) -> str:
    """The .param text of `layers`; `parse_param` reads it back."""
    lines = [str(MAGIC), f"{len(layers)} {sum(len(layer.outputs) for layer in layers)}"]
    for layer in layers:
        counts = (str(len(layer.inputs)), str(len(layer.outputs)))
        words = [f"{layer.kind:24}", f"{layer.name:24}", *counts, *layer.inputs, *layer.outputs]
        lines.append(" ".join([*words, *(_format_param(key, value) for key, value in sorted(layer.params.items()))]))
    return "\n".join(lines) + "\n"


def read_bin(layers: Sequence[Layer], raw: bytes, *, where: object) -> list[Layer]:
    """`layers` with the weights that their parameters call for, taken from a .bin.

    Raises:
        BackendError: too short, too long, an unknown tag, or a number that is not finite.
    """
    result, position = [], 0
    for layer in layers:
        weights = []
        for count, tagged in list_weight_sizes(layer):
            blob, position = _read_blob(raw, position, count, tagged, where=f"{where}: {layer.name}")
            weights.append(blob)
        result.append(replace(layer, weights=tuple(weights)))
    if position != len(raw):
        raise BackendError(f"has {len(raw)} bytes, and its layers read {position}", where=where)
    return result


def write_bin(layers: Sequence[Layer]) -> bytes:
    """The .bin of `layers`; `read_bin` reads it back."""
    parts = []
    for layer in layers:
        for blob in layer.weights:
            if blob.tagged:
                parts.append(struct.pack("<I", TAGS[blob.values.dtype.type]))
            raw = blob.values.astype(blob.values.dtype.newbyteorder("<")).tobytes()
            parts.append(raw + bytes(-len(raw) % 4))
    return b"".join(parts)


def _parse_layer(words: list[str], *, where: str) -> Layer:
    if len(words) < 4 or not (words[2].isdecimal() and words[3].isdecimal()):
        raise BackendError("is not a layer: kind, name, number of inputs, number of outputs ...", where=where)
    counts = [int(word) if len(word) < 6 else len(words) for word in words[2:4]]
    split_at, end = 4 + counts[0], 4 + counts[0] + counts[1]
    if end > len(words) or any(len(word) > _MAX_NAME for word in words):
        raise BackendError("has fewer blobs than it says, or a name that is too long", where=where)
    params: dict[int, Value] = {}
    for word in words[end:]:
        key, value = _parse_entry(word, where=where)
        if key in params:
            raise BackendError(f"parameter {key} is given twice", where=where)
        params[key] = value
    return Layer(words[0], words[1], tuple(words[4:split_at]), tuple(words[split_at:end]), params)


def _parse_entry(word: str, *, where: str) -> tuple[int, Value]:
    """One `key=value`; arrays are `-233kk=count,a,b ...`."""
    key_text, _, text = word.partition("=")
    if not _INTEGER.fullmatch(key_text) or not text:
        raise BackendError(f"'{word}' is not key=value", where=where)
    key = int(key_text)
    is_array = key <= ARRAY_KEY
    key = ARRAY_KEY - key if is_array else key
    if not 0 <= key <= _MAX_KEY:
        raise BackendError(f"'{word}' has a key out of range", where=where)
    if not is_array:
        return key, _parse_number(text, where=where)
    count, *values = (_parse_number(part, where=where) for part in text.split(","))
    if count != len(values) or len(values) > _MAX_ARRAY:
        raise BackendError(f"'{word}' does not have as many values as it says", where=where)
    return key, tuple(values)


def _parse_number(text: str, *, where: str) -> Number:
    if _INTEGER.fullmatch(text):
        number: Number = int(text)
        if abs(number) < 2**31:
            return number
    elif re.fullmatch(r"[+-]?[0-9]*\.?[0-9]*(e[+-]?[0-9]{1,2})?", text) and any(c.isdigit() for c in text):
        try:
            number = float(text)
        except ValueError:
            number = float("inf")
        if abs(number) < 3.4e38:
            return number
    raise BackendError(f"'{text}' is not a number that fits", where=where)


def _format_param(key: int, value: Value) -> str:
    if isinstance(value, tuple):
        return f"{ARRAY_KEY - key}=" + ",".join(map(str, (len(value), *value)))
    return f"{key}={value}"


def _check_links(layers: Sequence[Layer], *, where: object) -> int:
    """Number of blobs; each is made once, before it is read by at most one layer (ncnn copies with Split)."""
    waiting: set[str] = set()
    made: set[str] = set()
    names: set[str] = set()
    for layer in layers:
        for blob in layer.inputs:
            if blob not in waiting:
                raise BackendError(f"blob '{blob}' of layer '{layer.name}' is not made, or is read twice", where=where)
            waiting.remove(blob)
        if layer.name in names:
            raise BackendError(f"two layers are named '{layer.name}'", where=where)
        names.add(layer.name)
        for blob in layer.outputs:
            if blob in made:
                raise BackendError(f"blob '{blob}' is made twice", where=where)
            made.add(blob)
            waiting.add(blob)
    return len(made)


def list_weight_sizes(layer: Layer) -> list[tuple[int, bool]]:
    """(count, tagged) of each blob that the engine will read for this layer, from its parameters alone."""
    integer = layer.integer
    if layer.kind in ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise"):
        scales = integer(7, 1) if layer.kind == "ConvolutionDepthWise" else integer(0)
        filters = _list_filter_sizes(integer(6), integer(0) * bool(integer(5)), scales * bool(integer(INT8_TERM_KEY)))
        return [*filters, (1, False)] if integer(INT8_TERM_KEY) > REQUANTIZED else filters  # the scale of its output
    if layer.kind == "InnerProduct":
        return _list_filter_sizes(integer(2), integer(0) * bool(integer(1)), integer(0) * bool(integer(INT8_TERM_KEY)))
    if layer.kind == "BatchNorm":
        return [(integer(0), False)] * 4
    if layer.kind == "Scale":
        return [(integer(0), False)] * (1 + bool(integer(1)))
    if layer.kind == "PReLU":
        return [(integer(0), False)]
    if layer.kind == "MemoryData":
        sizes = [integer(key) for key in (0, 1, 11, 2) if integer(key)]
        return [(int(np.prod(sizes, dtype=object)), integer(21, 1) == 0)]
    return []


def _list_filter_sizes(weights: int, biases: int, scales: int) -> list[tuple[int, bool]]:
    sizes = [(weights, True)]
    if biases:
        sizes.append((biases, False))
    if scales:
        sizes.extend([(scales, False), (1, False)])  # of the weight, then of the input
    return sizes


def _read_blob(raw: bytes, position: int, count: int, tagged: bool, *, where: str) -> tuple[Blob, int]:
    """A blob and the position after it."""
    kind: type[np.generic] = np.float32
    if count <= 0:
        raise BackendError(f"a weight of {count} numbers", where=where)
    if tagged:
        if position + 4 > len(raw):
            raise BackendError("the file ends too early", where=where)
        tag = struct.unpack_from("<I", raw, position)[0]
        kinds = {value: kind for kind, value in TAGS.items()}
        if tag not in kinds:
            raise BackendError(f"unknown weight tag 0x{tag:08X}", where=where)
        kind, position = kinds[tag], position + 4
    dtype = np.dtype(kind).newbyteorder("<")
    size = count * dtype.itemsize
    size += -size % 4
    if position + size > len(raw):
        raise BackendError("the file ends too early", where=where)
    values = np.frombuffer(raw, dtype, count, position).astype(kind)
    if not np.isfinite(values).all():
        raise BackendError("a weight is not a finite number", where=where)
    return Blob(values, tagged), position + size
