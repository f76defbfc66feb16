"""ncnn's files: round trips; and broken ones give BackendError before the engine sees them, never a crash."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from any_spec import any_spec

from edgeyolo import backends
from edgeyolo.backends.ncnn.files import Blob, Layer, format_param, parse_param, read_bin, write_bin
from edgeyolo.backends.ncnn.requantize import is_requantized, requantize
from edgeyolo.backends.ncnn.shapes import check_network
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.target import Target

PARAM = """7767517
4 5
Input        in0   0 1 in0 0=8 1=8 2=3
Convolution  conv  1 1 in0 a 0=4 1=3 -23310=1,0.1 4=1 5=1 6=108 9=2
Split        split 1 2 a b c
Concat       cat   2 1 b c out0 0=0
"""
BIN = bytes(4) + bytes(108 * 4) + bytes(4 * 4)


def load(param: str, raw: bytes, count: int = 1) -> None:
    layers = read_bin(parse_param(param, where="param"), raw, where="bin")
    check_network(layers, (8, 8), count, where="param")


def test_the_base_of_these_tests_is_valid() -> None:
    load(PARAM, BIN)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_round_trip_of_built_files(one_layer, precision: str, tmp_path: Path) -> None:
    path, qparams = one_layer(activation="LeakyRelu").write(tmp_path)
    target = Target(title="t", engine="ncnn", precisions=("int8", "fp16", "fp32"))
    backends.build(path, any_spec((12, 20)), qparams, target, tmp_path / "o", precision=precision)
    text, raw = (tmp_path / "o/model.ncnn.param").read_text(), (tmp_path / "o/model.ncnn.bin").read_bytes()
    layers = read_bin(parse_param(text, where="p"), raw, where="b")
    assert format_param(layers) == text
    assert write_bin(layers) == raw


def test_numbers_survive_a_round_trip() -> None:
    text = "7767517\n1 1\nInput in0 0 1 in0 0=-3 1=0.1 3=1e-05 -23304=3,1,-2.5,3e+20\n"
    layers = parse_param(text, where="p")
    assert layers[0].params == {0: -3, 1: 0.1, 3: 1e-05, 4: (1, -2.5, 3e20)}
    assert parse_param(format_param(layers), where="p")[0].params == layers[0].params


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("7767517", "7767518"),
        ("4 5", "5 5"),
        ("4 5", "4 6"),
        ("4 5", "-4 5"),
        ("4 5", "4"),
        ("1 1 in0 a", "1 1 a in0"),  # made after it is used, and twice
        ("1 1 in0 a", "2 1 in0 a"),
        ("1 1 in0 a", "99999999999 1 in0 a"),
        ("1 1 in0 a", "x 1 in0 a"),
        ("b c out0", "b b out0"),
        ("b c out0", "b c b"),
        ("b c out0", "b c out1"),
        ("Concat ", "LSTM "),
        ("Concat ", "Tensor.slice "),
        ("split", "conv"),
        ("0=0", "0=3"),
        ("0=0", "0=2147483648"),
        ("0=0", "0=1.5"),
        ("0=0", "40=0"),
        ("0=0", "-1=0"),
        ("0=0", "0"),
        ("0=0", "0=nan"),
        ("0=0", "0=0 0=0"),
        ("0=4", "0=5"),
        ("0=4", "0=0"),
        ("0=4", "0=-4"),
        ("1=3", "1=2"),
        ("1=3", "1=0"),
        ("1=3", "1=3 3=0"),
        ("1=3", "1=3 2=5"),  # dilated beyond the input
        ("4=1", "4=-1"),
        ("4=1", "4=-233"),
        ("6=108", "6=107"),
        ("6=108", "6=2000000000"),
        ("6=108", "6=-108"),
        ("6=108", "6=108 19=1"),
        ("6=108", "6=108 8=2"),
        ("6=108", "6=108 8=102"),
        ("9=2", "9=7"),
        ("-23310=1,0.1", "-23310=2,0.1"),
        ("-23310=1,0.1", "10=0.1"),
        ("-23310=1,0.1", "-23310=0"),
        ("0=8 1=8", "0=9 1=8"),
        ("in0 0=8", "image 0=8"),
    ],
)
def test_broken_params_are_refused(old: str, new: str) -> None:
    assert old in PARAM
    with pytest.raises(BackendError):
        load(PARAM.replace(old, new, 1), BIN)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        BIN[:-1],
        BIN[:-4],
        BIN + bytes(4),
        BIN[4:],
        b"\x47\x6b\x30\x01" + BIN[4:],  # says half precision
        b"\x01\x00\x00\x00" + BIN[4:],
        BIN[:4] + b"\x00\x00\xc0\x7f" + BIN[8:],  # not a number
    ],
)
def test_broken_bins_are_refused(raw: bytes) -> None:
    with pytest.raises(BackendError):
        load(PARAM, raw)


def test_blobs_that_do_not_fit_are_refused() -> None:
    pooled = PARAM.replace("4 5", "5 6").replace(
        "Concat       cat   2 1 b c out0", "Pooling p 1 1 b d 1=2 2=2\nConcat cat 2 1 d c out0"
    )
    with pytest.raises(BackendError, match="join"):
        load(pooled, BIN)
    with pytest.raises(BackendError, match="combine"):
        load(pooled.replace("Concat cat", "BinaryOp add"), BIN)
    load(pooled.replace("1=2 2=2", "1=3 2=1 3=1"), BIN)


FUZZ = """
import random, sys
from pathlib import Path
import numpy as np
from edgeyolo import backends
from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
folder = Path(sys.argv[1])
decode = AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),))
spec = ModelSpec(name="m", activation="", class_names=("a",), input=InputSpec(image_hw=(12, 20)), decode=decode)
files = {"param": "model.ncnn.param", "bin": "model.ncnn.bin"}
artefact = Artefact(engine="ncnn", engine_version="", precision="int8", files=files)
originals = {name: (folder / name).read_bytes() for name in files.values()}
images = np.zeros((1, 3, 12, 20), np.float32)
random.seed(int(sys.argv[2]))
refused = 0
for _ in range(250):
    name = random.choice(list(originals))
    raw = bytearray(originals[name])
    for _ in range(random.choice((1, 1, 2, 5))):
        place = random.randrange(len(raw))
        kind = random.randrange(4)
        if kind == 0:
            raw[place] = random.randrange(256)
        elif kind == 1:
            raw[place] = ord(random.choice("0123456789=- ,.ab"))
        elif kind == 2:
            del raw[place : place + random.choice((1, 2, 30))]
        else:
            raw[place:place] = raw[max(place - random.choice((1, 30)), 0) : place]
        raw = raw or bytearray(b"0")
    for other in originals:
        (folder / other).write_bytes(bytes(raw) if other == name else originals[other])
    try:
        session = backends.open_artefact(folder, artefact, spec, threads=1)
        session.run(images)
    except EdgeYoloError:
        refused += 1
print("refused", refused)
"""


@pytest.mark.parametrize("chained", [False, True])
def test_altered_files_never_crash_the_engine(one_layer, chained: bool, tmp_path: Path) -> None:
    """Bytes changed, removed and doubled at random: each time an error of ours, or a run. In a process of its own."""
    path, qparams = one_layer(activation="LeakyRelu").write(tmp_path)
    target = Target(title="t", engine="ncnn", precisions=("int8",))
    backends.build(path, any_spec((12, 20)), qparams, target, tmp_path / "o", precision="int8")
    if chained:
        add_a_chain(tmp_path / "o")
    command = [sys.executable, "-c", FUZZ, str(tmp_path / "o"), str(int(chained))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split("refused")[1]) > 50


def add_a_chain(folder: Path) -> None:
    """Another int8 convolution behind the one that is there, which then hands int8 over through a Split."""
    param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    start, first = read_bin(parse_param(param.read_text(), where="p"), weights.read_bytes(), where="b")
    split = Layer("Split", "copy", ("x",), ("y",), {})
    values = np.random.default_rng(0).integers(-127, 128, 8 * 16, dtype=np.int8)
    scales = (Blob(np.full(8, 500, np.float32)), Blob(np.full(1, 40, np.float32)))
    second = Layer("Convolution", "second", ("y",), ("out0",), {0: 8, 6: 128, 8: 2}, (Blob(values, True), *scales))
    layers = requantize([start, replace(first, outputs=("x",)), split, second])
    assert is_requantized(layers[1])
    param.write_text(format_param(layers))
    weights.write_bytes(write_bin(layers))
