"""Files of paddle.save that lie, and damaged ones."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from raw_pickles import named, raw_pickle, text

from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.formats import read_tensors

DOUBLED = b")" + b"q\x00h\x00\x86" * 64
DTYPE = named("numpy", "dtype")
FLOATS = DTYPE + text("f4") + b"\x89\x88\x87R(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def array_pickle(shape, raw):
    """{"a": an array of float32} of whatever shape and bytes."""
    start = named("numpy.core.multiarray", "_reconstruct") + b")R(K\x01" + shape + FLOATS + b"\x89"
    return b"\x80\x03}" + text("a") + start + b"C" + bytes([len(raw)]) + raw + b"tbs."


LYING = {
    "objects": (raw_pickle(DTYPE, text("O8"), b"\x89\x88\x87R"), "arrays of 'O8'"),
    "a tuple for a type": (raw_pickle(DTYPE, DOUBLED, b"\x85R"), "arrays of no type"),
    "byte order": (raw_pickle(DTYPE, text("f4"), b"\x85R", b"(K\x03", text("?"), b"tb"), "no byte order"),
    "more numbers than bytes": (array_pickle(b"K\x03\x85", b"12345678"), r"shape \(3,\) in 8 bytes"),
    "a shape without end": (array_pickle(b"\x8a\x09" + b"\0" * 8 + b"\x01K\x00\x86", b"1234"), "in 4 bytes"),
    "negative": (array_pickle(b"J\xff\xff\xff\xff\x85", b"1234"), "negative"),
    "dimensions": (array_pickle(b"(" + b"K\x01" * 99 + b"t", b"1234"), "99 dimensions"),
    "no shape": (array_pickle(b"K\x01", b"1234"), "not numbers"),
    "a tuple of a list": (raw_pickle(named("builtins", "tuple"), b"]\x85R"), "a tuple of a list"),
    "text as other bytes": (
        raw_pickle(named("_codecs", "encode"), text("a"), text("utf7"), b"\x86R"),
        "written as utf7",
    ),
    "no dictionary": (pickle.dumps([1]), "holds no dictionary"),
}


@pytest.mark.parametrize("lie", LYING)
def test_arrays_are_of_exactly_their_bytes(lie, tmp_path):
    data, message = LYING[lie]
    (tmp_path / "x.pdparams").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "x.pdparams")


def test_an_honest_array_is_read(tmp_path):
    """The same writer, with true numbers."""
    raw = np.array([1, 2], np.float32).tobytes()
    (tmp_path / "x.pdparams").write_bytes(array_pickle(b"K\x02\x85", raw))
    assert read_tensors(tmp_path / "x.pdparams")["a"].tolist() == [1, 2]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["<f2", ">f4", "f8", "i8", "u1", "?"])
def test_what_numpy_pickles_is_read(kind, protocol, tmp_path):
    values = np.asfortranarray(np.arange(6).reshape(2, 3).astype(kind))
    saved = {"a": values, "b": np.float64(3), "c": ("conv2d_0.w_0", np.array(7).astype(kind)), "d": {1, 2}}
    if protocol == 2:
        del saved["d"]  # not written by paddle at all
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(saved, protocol))
    read = read_tensors(tmp_path / "x.pdparams")
    assert list(read) == ["a", "c"]
    assert np.array_equal(read["a"].numpy(), values)
    assert read["c"].item() == 7 or kind == "?"


def test_one_array_under_many_names_is_not_copied_for_each(tmp_path):
    array = np.ones(100_000, np.float32)
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({str(i): array for i in range(100)}, 4))
    with pytest.raises(CheckpointError, match="unfolds to more"):
        read_tensors(tmp_path / "x.pdparams")


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_never_give_anything_but_our_error(seed, tmp_path):
    """Random bytes changed in a good file: it loads, or the error is ours."""
    rng = np.random.default_rng(seed)
    good = pickle.dumps({"weight": np.ones((2, 3)), "x": (1, "a", {2.5, None})}, 2)
    path = tmp_path / "x.pdparams"
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            assert len(read_tensors(path)) <= 1
        except CheckpointError:
            refused += 1
    assert 75 < refused < 150
