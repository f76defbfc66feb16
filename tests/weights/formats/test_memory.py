"""Small files that would grow: read in a process whose peak of memory is looked at."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from raw_pickles import HOLDER, get, named, put, raw_pickle, storage_pickle, text, zip_of

MEBIBYTE = 1 << 20
READ = """
import sys
from pathlib import Path
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.formats import read_tensors

def memory(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind))  # KiB

for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    try:
        read_tensors(Path(path))
    except CheckpointError:
        pass
    print(Path(path).name, memory("VmHWM") - before)
"""


def module_that_holds_itself(children):
    """Of as many names."""
    names = b"".join(text(str(i)) + get(0) for i in range(children))
    state = b"}" + text("_modules") + b"}(" + names + b"usb"
    return raw_pickle(HOLDER, b")\x81", put(0), state)


def storage_as_every_type(side):
    kinds = ("Half", "BFloat16", "Float", "Double", "Byte", "Char", "Short", "Int", "Long", "Bool")
    sizes = (2, 2, 4, 8, 1, 1, 2, 4, 8, 1)
    return raw_pickle(*(storage_pickle(side // n, f"{k}Storage") for k, n in zip(kinds, sizes, strict=True)))


def tensors_of_one_storage(count):
    start = (
        named("torch._utils", "_rebuild_tensor_v2") + put(0) + b"(" + storage_pickle(4) + b"K\x00K\x04\x85K\x01\x85t"
    )
    return raw_pickle(start, put(1), b"h\x00h\x01R" * count)


def directory_of(entries):
    """A zip whose directory is all there is of it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"")
    data = buffer.getvalue()
    at = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[at:end] * entries
    return data[:at] + entry + data[end : end + 12] + len(entry).to_bytes(4, "little") + data[end + 16 :]


BOMBS = {
    "modules.pt": lambda path: zip_of(path, module_that_holds_itself(60_000)),
    "types.pt": lambda path: zip_of(path, storage_as_every_type(24 * MEBIBYTE), [("0", bytes(24 * MEBIBYTE))]),
    "tensors.pt": lambda path: zip_of(path, tensors_of_one_storage(1_000_000), [("0", bytes(16))]),
    "directory.pt": lambda path: path.write_bytes(directory_of(300_000)),
    "dictionaries.pdparams": lambda path: path.write_bytes(raw_pickle(b"}" * 12_000_000)),
    "sets.pdparams": lambda path: path.write_bytes(raw_pickle(b"\x8f" * 12_000_000)),
    "arrays.pdparams": lambda path: path.write_bytes(
        pickle.dumps(dict.fromkeys(range(1000), np.ones(MEBIBYTE, np.uint8)), 4)
    ),
    "texts.pdparams": lambda path: path.write_bytes(
        raw_pickle(named("_codecs", "encode"), put(0), text("x" * MEBIBYTE), text("latin1"), b"\x86", put(1))[:-1]
        + b"h\x00h\x01R" * 1000 + b"."
    ),
    "memo.pdparams": lambda path: path.write_bytes(raw_pickle(b"Nr\xff\xff\xff\xff")),
    "byte_array.pdparams": lambda path: path.write_bytes(b"\x80\x05\x96" + (4 << 30).to_bytes(8, "little") + b"."),
}  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux's /proc")
def test_reading_takes_little_more_memory_than_the_file(tmp_path):
    for name, write in BOMBS.items():
        write(tmp_path / name)
    paths = [tmp_path / name for name in BOMBS]
    done = subprocess.run([sys.executable, "-c", READ, *map(str, paths)], capture_output=True, text=True, check=True)
    growth = {name: int(kibibytes) / 1024 for name, kibibytes in map(str.split, done.stdout.splitlines())}
    most = {path.name: 200 + 3 * path.stat().st_size / MEBIBYTE for path in paths}
    assert growth.keys() == most.keys()
    assert {name: grown for name, grown in growth.items() if grown > most[name]} == {}
