"""Refuses ONNX graphs that keep values in other files, which engines would read from wherever they happen to run.

The bytes are walked as protobuf, so that a board needs no onnx package for it and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeyolo.spec.errors import BackendError

# Message -> field number -> message in it, on every way from a model to a tensor; see onnx.proto.
FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # of TensorProto
_GRAPH = 7  # of ModelProto
_DEEPEST = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def refuse_external_data(raw: bytes, *, where: object) -> None:
    """Raise BackendError unless `raw` is an ONNX model that holds all of its values."""
    model = memoryview(raw)
    try:
        if _GRAPH not in {number for number, _ in _fields(model)}:
            raise ValueError("no graph")
        _check(model, "ModelProto", 0, where)
    except ValueError as error:
        raise BackendError(f"is not a usable ONNX file ({error})", where=where) from None


def _check(message: memoryview, kind: str, depth: int, where: object) -> None:
    if depth > _DEEPEST:
        raise ValueError("graphs in graphs without end")
    if kind == "TensorProto":
        _check_tensor(message, where)
        return
    inner = FIELDS[kind]
    for number, value in _fields(message):
        if number in inner and isinstance(value, memoryview):
            _check(value, inner[number], depth + 1, where)


def _check_tensor(message: memoryview, where: object) -> None:
    fields = dict(_fields(message))
    if _EXTERNAL_DATA in fields or fields.get(_DATA_LOCATION, 0) != 0:
        name = fields.get(_NAME, b"")
        text = bytes(name).decode("utf-8", "replace") if not isinstance(name, int) else ""
        raise BackendError(
            f"tensor '{text}' is kept in another file",
            where=where,
            hint="Use a file that holds all its weights: onnx.save(onnx.load(PATH), OTHER). "
            "Do not use a bundle from a source you do not trust",
        )


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field; a value of fixed width is given as its bytes.

    Raises:
        ValueError: not protobuf.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if number == 0 or key >> 32:  # readers differ in what they take it for
            raise ValueError(f"field {number} is none")
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == _BYTES:
            size, place = _varint(message, place)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} is of unknown wire type {wire}")
        if place + size > len(message):
            raise ValueError("it is cut off")
        yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number that begins there, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("it is cut off")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number without end")
