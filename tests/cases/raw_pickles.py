"""Pickles written byte by byte, and zips around them."""

from __future__ import annotations

import io
import pickle
import zipfile

HOLDER = b"ctorch.nn.modules.container\nSequential\n"


def raw_pickle(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def put(position):
    return b"r" + position.to_bytes(4, "little")


def get(position):
    return b"j" + position.to_bytes(4, "little")


def zip_of(path, data, storages=(), **changes):
    """A torch archive around a pickle."""
    with zipfile.ZipFile(path, "w", **changes) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, raw in storages:
            archive.writestr(f"archive/data/{key}", raw)


def storage_pickle(count, kind="FloatStorage", key="0"):
    """On the stack: a storage of so many numbers."""
    return b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"


def number(value):
    buffer = io.BytesIO()
    pickle._Pickler(buffer, 2).save_long(value)
    return buffer.getvalue()


def tensor_pickle(count, offset, size, stride, kind="FloatStorage", key="0"):
    """{"a": a tensor} over one storage, with whatever numbers."""
    parts = [b"}", text("a"), named("torch._utils", "_rebuild_tensor_v2"), b"(", storage_pickle(count, kind, key)]
    for value in (offset, size, stride):
        parts.append(b"(" + b"".join(map(number, value)) + b"t" if isinstance(value, tuple) else number(value))
    return raw_pickle(*parts, b"\x89", named("collections", "OrderedDict"), b")RtRs")
