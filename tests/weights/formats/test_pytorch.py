"""Files of torch.save that lie about their sizes, or go on without end."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch
from raw_pickles import HOLDER, get, named, put, raw_pickle, tensor_pickle, text, zip_of

from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.formats import read_tensors

LYING = {
    "more numbers than bytes": (tensor_pickle(100, 0, (4,), (1,)), "has 16 bytes where it should have 100 numbers"),
    "fewer": (tensor_pickle(2, 0, (2,), (1,)), "has 16 bytes where it should have 2 numbers"),
    "other type": (tensor_pickle(4, 0, (2,), (1,), "DoubleStorage"), "has 16 bytes where it should have 4 numbers"),
    "negative count": (tensor_pickle(-4, 0, (2,), (1,)), "has 16 bytes where it should have -4 numbers"),
    "too large": (tensor_pickle(4, 0, (5,), (1,)), "beyond its storage"),
    "offset": (tensor_pickle(4, 3, (2,), (1,)), "beyond its storage"),
    "stride": (tensor_pickle(4, 0, (2,), (4,)), "beyond its storage"),
    "negative offset": (tensor_pickle(4, -1, (2,), (1,)), "negative"),
    "negative stride": (tensor_pickle(4, 3, (2,), (-1,)), "negative"),
    "unfolded": (tensor_pickle(4, 0, (1 << 20, 1 << 20), (0, 0)), "beyond its storage"),
    "endless": (tensor_pickle(4, 0, (1 << 70, 0), (1, 1)), "cannot be read"),
    "dimensions": (tensor_pickle(4, 0, (1,) * 5000, (1,) * 5000), "5000 dimensions"),
    "no such storage": (tensor_pickle(4, 0, (4,), (1,), key="../data.pkl"), "cannot be read"),
    "no storage type": (tensor_pickle(4, 0, (4,), (1,), "UntypedStorage"), "torch.UntypedStorage"),
    "no storage": (raw_pickle(b"}", text("a"), b"NQs"), "unknown kind of external data"),
    "no tensor": (
        raw_pickle(b"}", text("a"), named("torch._utils", "_rebuild_parameter"), b"N\x85Rs"),
        "without tensor",
    ),
    "not a tensor's": (raw_pickle(named("torch._utils", "_rebuild_tensor_v2"), b"(NK\x00))tR"), "without storage"),
}


@pytest.mark.parametrize("lie", LYING)
def test_tensors_stay_inside_of_their_storage(lie, tmp_path):
    data, message = LYING[lie]
    zip_of(tmp_path / "x.pt", data, [("0", np.arange(4, dtype=np.float32).tobytes())])
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "x.pt")


def test_an_honest_tensor_is_read(tmp_path):
    """The same writer, with true numbers."""
    zip_of(tmp_path / "x.pt", tensor_pickle(4, 1, (3,), (1,)), [("0", np.arange(4, dtype=np.float32).tobytes())])
    assert read_tensors(tmp_path / "x.pt")["a"].tolist() == [1, 2, 3]


def test_a_tensor_takes_no_state(tmp_path):
    """`Tensor.__setstate__` could resize its storage."""
    data = tensor_pickle(4, 1, (3,), (1,))[:-2] + b"}bs."
    zip_of(tmp_path / "x.pt", data, [("0", np.arange(4, dtype=np.float32).tobytes())])
    with pytest.raises(CheckpointError, match="state for Tensor"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float64, torch.bool, torch.uint8, torch.int64])
def test_what_torch_saves_is_read(dtype, tmp_path):
    tensors = {"a": torch.randn(3, 4).to(dtype).T, "b": torch.nn.Parameter(torch.zeros(0, 2)), "c": torch.ones(())}
    torch.save({"model": tensors, "size": tensors["a"].size(), "best": np.float64(2)}, tmp_path / "x.pt")
    read = read_tensors(tmp_path / "x.pt")
    assert list(read) == list(tensors)
    assert all(read[name].dtype == value.dtype and torch.equal(read[name], value) for name, value in tensors.items())


def test_names_that_are_numbers_are_text(tmp_path):
    torch.save({3: torch.ones(1)}, tmp_path / "x.pt")
    assert list(read_tensors(tmp_path / "x.pt")) == ["3"]


def test_a_chain_of_objects_is_no_deeper_than_the_stack(tmp_path):
    """50,000 modules, each an attribute of the next."""
    link = HOLDER + b")\x81}" + text("x")
    zip_of(tmp_path / "x.pt", raw_pickle(b"}", text("model"), link * 50_000, b"N", b"sb" * 50_000, b"s"))
    assert read_tensors(tmp_path / "x.pt") == {}


def test_a_later_protocol_is_read(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 3)}, tmp_path / "x.pt", pickle_protocol=4)
    assert list(read_tensors(tmp_path / "x.pt")) == ["weight", "bias"]


def test_modules_without_end_are_refused(tmp_path):
    """A module that holds itself, forty levels of two that are one, and names of a megabyte."""
    itself = raw_pickle(b"}", text("model"), HOLDER, b")\x81q\x00}", text("_modules"), b"}", text("0"), b"h\x00ssbs")
    double = b"".join(
        HOLDER + b")\x81}" + text("_modules") + b"}" + text("a") + get(i) + b"s" + text("b") + get(i) + b"ssb"
        + put(i + 1) + b"0"
        for i in range(40)
    )  # fmt: skip
    doubled = raw_pickle(HOLDER, b")\x81", put(0), b"0", double, b"}", text("model"), get(40), b"s")
    long_name = raw_pickle(
        b"}", text("model"), HOLDER, b")\x81}", text("_buffers"), b"}", text("n" * 1_000_000), b"Nssbs"
    )
    for data in (itself, doubled, long_name):
        zip_of(tmp_path / "x.pt", data)
        with pytest.raises(CheckpointError, match="without end"):
            read_tensors(tmp_path / "x.pt")


def test_zips_that_lie_about_sizes_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    zip_of(path, pickle.dumps({}, 2), [("0", b"\0" * 100_000_000)], compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    with pytest.raises(CheckpointError, match="compressed entries"):
        read_tensors(path)
    zip_of(path, pickle.dumps({}, 2), [("0", b"\0" * 64)])
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[central + 20 : central + 28] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_tensors(path)
    path.write_bytes(bytes(data[:-30]))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(path)


def test_zips_of_another_kind_are_named_as_such(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="not one of torch"):
        read_tensors(tmp_path / "x.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch before 1\.6"):
        read_tensors(tmp_path / "old.pt")
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as archive:
        archive.writestr("a/byteorder", "big")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_tensors(tmp_path / "big.pt")


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_never_give_anything_but_our_error(seed, tmp_path):
    """Random bytes changed in a good file, its directory among them: it loads, or the error is ours."""
    rng = np.random.default_rng(seed)
    path = tmp_path / "x.pt"
    torch.save({"model": torch.nn.BatchNorm2d(2)}, path)
    good = path.read_bytes()
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for at in rng.integers(len(data) // 2, len(data), 4):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            read_tensors(path)
        except CheckpointError:
            refused += 1
    assert refused > 150
