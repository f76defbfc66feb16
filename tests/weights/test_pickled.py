"""Pickles that mean harm: nothing in them runs, and the error says what they asked for."""

from __future__ import annotations

import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from raw_pickles import get, named, put, raw_pickle, text, zip_of
from torch import nn

from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.formats import read_tensors
from edgeyolo.weights.pickled import Vocabulary, read_pickle


class Harm:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


DOUBLED = b")" + b"q\x00h\x00\x86" * 64  # a tuple that takes 2 ** 64 steps to hash


def harmful_pickles(command):
    """Name -> (bytes, what the error must name)."""
    system, evaluate = named("os", "system"), named("builtins", "eval")
    code = f"__import__('os').system({command!r})"
    arguments = text(command) + b"\x85"
    holder = named("torch.nn.modules.linear", "Identity")
    many = [get(0) + get(1) + b"\x85R0"] * 500
    return {
        "reduce": (pickle.dumps({"a": Harm(os.system, command)}, 2), "system"),
        "eval": (raw_pickle(evaluate, text(code), b"\x85R"), "builtins.eval"),
        "exec, old name": (raw_pickle(named("__builtin__", "exec"), text(code), b"\x85R"), "__builtin__.exec"),
        "getattr": (raw_pickle(named("builtins", "getattr"), holder, text("x"), b"\x86R"), "builtins.getattr"),
        "stack global": (b"\x80\x04" + text("os") + text("system") + b"\x93" + arguments + b"R.", "os.system"),
        "newobj": (raw_pickle(system, arguments, b"\x81"), "os.system"),
        "newobj_ex": (b"\x80\x04" + system + arguments + b"}\x92.", "os.system"),
        "inst": (raw_pickle(b"(" + text(command) + b"ios\nsystem\n"), "the pickle operation INST"),
        "obj": (raw_pickle(b"(", system, text(command), b"o"), "os.system"),
        "obj of data": (raw_pickle(b"(", text("x"), b"o"), "the pickle operation OBJ"),
        "newobj_ex of data": (b"\x80\x04" + text("x") + b")}\x92.", "the pickle operation NEWOBJ_EX"),
        "extension": (raw_pickle(b"\x82\x01"), "EXT1"),
        "persistent id": (raw_pickle(b"Pid\n"), "PERSID"),
        "in a state": (raw_pickle(b"}", system, arguments, b"Rb"), "os.system"),
        "a key": (raw_pickle(b"}", system, arguments, b"RNs"), "os.system"),
        "a dotted name": (b"\x80\x04" + text("torch._utils") + text("os.system") + b"\x93.", "torch._utils.os.system"),
        "torch's own loader": (raw_pickle(named("torch.storage", "_load_from_bytes")), "_load_from_bytes"),
        "numpy's loader": (raw_pickle(named("numpy", "load"), text("x"), b"\x85R"), "numpy.load"),
        "a call of data": (raw_pickle(text("print"), text("x"), b"\x85R"), "a call of str"),
        "a class made of data": (raw_pickle(text("print"), text("x"), b"\x85\x81"), "a call of str"),
        "a call with a list": (raw_pickle(named("builtins", "set"), b"]R"), "a call of"),
        "state for a list": (raw_pickle(b"]}b"), "state for list"),
        "items in a list": (raw_pickle(b"]NNs"), "items in list"),
        "deep tuple as a key": (raw_pickle(b"}", b")" + b"\x85" * 200_000, b"Ns"), "key that is a tuple"),
        "doubled tuple as a key": (raw_pickle(b"}", DOUBLED, b"Ns"), "key that is a tuple"),
        "doubled tuple among keys": (raw_pickle(b"}(", DOUBLED, b"Nu"), "key that is a tuple"),
        "doubled tuple in a dictionary": (raw_pickle(b"(", DOUBLED, b"Nd"), "the pickle operation DICT"),
        "doubled tuple in an ordered one": (
            raw_pickle(named("collections", "OrderedDict"), b"]", DOUBLED, b"N\x86a\x85R"),
            "cannot be read",
        ),
        "doubled tuple in a frozen set": (b"\x80\x04(" + DOUBLED + b"\x91.", "the pickle operation FROZENSET"),
        "one text copied for ever": (
            raw_pickle(named("builtins", "set"), put(0), text("x" * 50_000), put(1), *many),
            "unfolds to more",
        ),
        "more operations than any network": (raw_pickle(b"N0" * 500_001), "more than 1000000 operations"),
        "text that claims 2 GiB": (raw_pickle(b"X\xff\xff\xff\x7fabc"), "cannot be read"),
        "bytes that claim an exabyte": (b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"abc.", "cannot be read"),
        "a frame that claims an exabyte": (b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"N", "cannot be read"),
        "a byte array that claims 8 GiB": (b"\x80\x05\x96" + (8 << 30).to_bytes(8, "little") + b".", "BYTEARRAY8"),
        "a memo of four thousand million": (raw_pickle(b"Nr\xff\xff\xff\xff"), "holds no"),
        "pop of nothing": (raw_pickle(b"0"), "cannot be read"),
        "mark of nothing": (raw_pickle(b"e"), "cannot be read"),
        "memo of nothing": (raw_pickle(b"h\x07"), "cannot be read"),
        "cut short": (pickle.dumps({"a": np.ones(9)}, 4)[:-40], "cannot be read"),
        "a number": (pickle.dumps(3), "holds no"),
    }


HARMFUL = list(harmful_pickles("true"))


@pytest.mark.parametrize("container", ["official.pdparams", "official.pt"])
@pytest.mark.parametrize("harm", HARMFUL)
def test_harmful_pickles_are_refused_by_name(harm, container, tmp_path):
    data, named_in_error = harmful_pickles(f"touch {tmp_path / 'canary'}")[harm]
    path = tmp_path / container
    if container.endswith(".pt"):
        zip_of(path, data)
    else:
        data = data.replace(b"torch.nn.modules.", b"numpy.ndarray.mod")  # a foreign name of this format
        path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    assert named_in_error in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_sing(tmp_path):
    """The harm is real: the ordinary unpickler does what the files ask."""
    for harm in ("reduce", "eval", "inst", "obj"):
        pickle.loads(harmful_pickles(f"touch {tmp_path / 'canary'}")[harm][0])
        (tmp_path / "canary").unlink()


def test_nothing_is_imported_for_a_name():
    """Not even where a table of ours has the name: `find_class` of Python's reader would import the module first."""
    known = {"a_module_that_is_not_there.name": lambda: 7}
    data = raw_pickle(named("a_module_that_is_not_there", "name"), b")R")
    assert read_pickle(data, Vocabulary(known), where="x") == 7


def test_every_operation_is_either_needed_or_refused():
    """Operations of later Pythons and of protocols that nobody writes weights in are not done by default."""
    for operation in pickle._Unpickler.dispatch:
        data = b"\x80\x02" + bytes([operation]) + b"\0" * 12
        with pytest.raises(CheckpointError):
            read_pickle(data, Vocabulary({}), where="x")


def test_classes_that_the_file_names_stay_names(tmp_path, monkeypatch):
    """A class of the file that exists here, with constructor and __setstate__ that do harm: neither runs."""
    module = types.ModuleType("models.common")
    ran = []

    class Conv(nn.Module):
        def __new__(cls, *args):
            ran.append("new")
            return super().__new__(cls)

        def __setstate__(self, state):
            ran.append("setstate")

    Conv.__module__, Conv.__qualname__ = "models.common", "Conv"
    module.Conv = Conv
    monkeypatch.setitem(sys.modules, "models.common", module)
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    network = Conv()
    network.weight = nn.Parameter(torch.ones(2))
    torch.save({"model": network}, tmp_path / "x.pt")
    ran.clear()
    assert list(read_tensors(tmp_path / "x.pt")) == ["weight"]
    assert ran == []
