"""Values that an ONNX file keeps elsewhere are refused, wherever in it they are named, before an engine reads them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from any_spec import any_spec
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeyolo import backends
from edgeyolo.backends.rknn.toolkit import FOLDER_VARIABLE, toolkit_folder
from edgeyolo.graph.external_data import FIELDS, refuse_external_data
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.target import Target

SPEC = any_spec((8, 8))


def external(name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4, 3, 1, 1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "private.bin"), ("offset", "0"), ("length", "48")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def conv(*initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(
        [*nodes, helper.make_node("Conv", ["images", "w"], ["map_0"])],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [1, 4, 8, 8])],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def own() -> TensorProto:
    return numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")


TOOLKIT = toolkit_folder()  # before a test run gets a cache of its own


@pytest.fixture
def in_folder_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    np.full(12, 7, np.float32).tofile(tmp_path / "private.bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("engine", backends.list_engines())
def test_no_engine_builds_from_it(engine: str, in_folder_with_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(TOOLKIT))
    path = in_folder_with_data / "model.onnx"
    path.write_bytes(conv(external()).SerializeToString())
    options, precision = ({"chip": "rk3588"}, "fp16") if engine == "rknn" else ({}, "fp32")
    target = Target(title="t", engine=engine, precisions=(precision,), engine_options=options)
    if backends.probe(target):
        pytest.skip(f"{engine} is not installed")
    with pytest.raises(BackendError, match="tensor 'w' is kept in another file"):
        backends.build(path, SPEC, None, target, in_folder_with_data / "out", precision=precision)


@pytest.mark.parametrize(
    "artefact",
    [
        Artefact(engine="onnxruntime", engine_version="", precision="fp32", files={"onnx": "model.onnx"}),
        Artefact(engine="tensorrt", engine_version="", precision="fp32", files={"onnx": "model.onnx"}),
    ],
    ids=lambda artefact: artefact.engine,
)
def test_no_engine_opens_it(artefact: Artefact, in_folder_with_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_folder_with_data / "model.onnx").write_bytes(conv(external()).SerializeToString())
    for name in ("load_tensorrt", "Cuda"):  # neither is needed to refuse it
        monkeypatch.setattr(f"edgeyolo.backends.tensorrt.{name}", lambda *_: pytest.fail("the file was not checked"))
    with pytest.raises(BackendError, match="tensor 'w' is kept in another file"):
        backends.open_artefact(in_folder_with_data, artefact, SPEC)


def in_a_constant(tensor: TensorProto) -> onnx.ModelProto:
    return conv(own(), nodes=(helper.make_node("Constant", [], ["c"], value=tensor),))


def in_a_list(tensor: TensorProto) -> onnx.ModelProto:
    model = in_a_constant(own())
    model.graph.node[0].attribute[0].tensors.append(tensor)
    return model


def in_a_branch(tensor: TensorProto) -> onnx.ModelProto:
    model = conv(own(), nodes=(helper.make_node("If", ["images"], ["c"]),))
    model.graph.node[0].attribute.append(helper.make_attribute("then_branch", conv(tensor).graph))
    return model


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    model = conv(own())
    model.functions.add(name="f").node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    return model


def in_a_sparse_tensor(tensor: TensorProto) -> onnx.ModelProto:
    model = conv(own())
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return model


@pytest.mark.parametrize("place", [conv, in_a_constant, in_a_list, in_a_branch, in_a_function, in_a_sparse_tensor])
def test_wherever_it_is(place: Any) -> None:
    raw = place(external()).SerializeToString()
    with pytest.raises(BackendError, match=r"model.onnx: tensor 'w' is kept in another file.*onnx.save"):
        refuse_external_data(raw, where="model.onnx")
    if place is not conv:
        refuse_external_data(place(own()).SerializeToString(), where="model.onnx")


def test_every_way_from_a_model_to_a_tensor_is_walked() -> None:
    """As onnx's own descriptors tell it."""
    ways: dict[str, dict[int, str]] = {}
    pending = [onnx.ModelProto.DESCRIPTOR]
    while pending:
        message = pending.pop()
        if message.name not in ways:
            ways[message.name] = {f.number: f.message_type.name for f in message.fields if f.message_type is not None}
            pending += [field.message_type for field in message.fields if field.message_type is not None]
    leading = {"TensorProto"}
    while more := {name for name, fields in ways.items() if leading & set(fields.values())} - leading:
        leading |= more
    wanted = {name: {n: other for n, other in ways[name].items() if other in leading} for name in leading}
    del wanted["TensorProto"]
    assert wanted == FIELDS


@given(st.binary(max_size=60), st.integers(0, 400))
def test_bytes_of_any_kind_are_a_model_or_an_error(noise: bytes, place: int) -> None:
    whole = conv(own()).SerializeToString()
    with contextlib.suppress(BackendError):
        refuse_external_data(whole[:place] + noise + whole[place:], where="x")
    with contextlib.suppress(BackendError):
        refuse_external_data(noise, where="x")


@pytest.mark.parametrize("raw", [b"", b"\x08\x09", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x0b"])
def test_what_is_no_model_is_refused(raw: bytes) -> None:
    with pytest.raises(BackendError, match="is not a usable ONNX file"):
        refuse_external_data(raw, where="x")


def test_a_tag_that_readers_truncate_is_refused() -> None:
    """Field 5 of the graph, for a reader that keeps 32 bits of a tag."""
    hidden = conv(external()).graph.initializer[0].SerializeToString()
    tag = bytes([0xAA, 0x80, 0x80, 0x80, 0x10])
    raw = conv(own()).graph.SerializeToString() + tag + bytes([len(hidden)]) + hidden
    with pytest.raises(BackendError, match="is not a usable ONNX file"):
        refuse_external_data(field(7, raw), where="x")


def test_graphs_in_graphs_come_to_an_end() -> None:
    """A node, its attribute, the graph in that, again and again."""
    raw = b""
    for number in (6, 5, 1) * 40:
        raw = field(number, raw)
    with pytest.raises(BackendError, match="without end"):
        refuse_external_data(field(7, raw), where="x")


def field(number: int, raw: bytes) -> bytes:
    """A message as a field of another."""
    size, digits = len(raw), b""
    while size > 0x7F:
        size, digits = size >> 7, digits + bytes([size & 0x7F | 0x80])
    return bytes([number << 3 | 2]) + digits + bytes([size]) + raw
