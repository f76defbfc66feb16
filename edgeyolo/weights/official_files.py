"""The weights in an official file, whatever it is: torch's zip of a whole pickled module, or a pickled dictionary.

Source: the layout of torch.save since 1.6 (a zip of `data.pkl` and one entry per storage, all stored uncompressed), and
of paddle.save (name -> array, or name -> (parameter name, array)).
"""

from __future__ import annotations

import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.unpickle import Array, Builder, Inert, Vocabulary, make_tuple, read_pickle

_ZIP_START = b"PK\x03\x04"
_OLD_TORCH_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_LONGEST_MODULE_PICKLE = 64 << 20  # bytes; the tensors are outside of it
_MOST_DIMENSIONS = 8
_MOST_MODULES = 50_000
_DEEPEST_MODULE = 24
_AGAIN = "Download or copy it again"
_INERT = ("models.", "utils.", "torch.nn.modules.", "torch.nn.parameter.", "torch.device")


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


@dataclass(frozen=True)
class _Storage:
    """One flat run of numbers."""

    values: Tensor


def read_official(path: Path) -> dict[str, Tensor]:
    """Official name -> tensor, of any file that the authors of a family publish. Nothing in it is run.

    Raises:
        CheckpointError: unreadable, of another kind, or it asks for more than tensors and containers.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_OLD_TORCH_START))
        if start.startswith(_ZIP_START):
            return _tensors_of_archive(path)
        if start == _OLD_TORCH_START:
            raise CheckpointError(
                "was written in the format of torch before 1.6", where=path, hint="Save it again with a newer torch"
            )
        return _tensors_of_dictionary(path)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise CheckpointError(f"cannot be read ({error})", where=path, hint=_AGAIN) from None


def _tensors_of_archive(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        _check_archive(archive, path)
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError("is a zip, but not one of torch", where=path, hint="Give a .pt file")
        folder = pickles[0].removesuffix("data.pkl")
        storages = _Storages(archive, folder, path)
        vocabulary = Vocabulary(_TORCH_NAMES, _INERT, storages.load)
        root = read_pickle(archive.read(pickles[0]), vocabulary, where=path)
    return _tensors_of_root(root, path)


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Entries are stored as they are and fit into the file, so that reading them takes no more memory than it."""
    entries = archive.infolist()
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(f"has compressed entries ({packed[0]})", where=path, hint="torch.save stores them plain")
    if sum(max(entry.file_size, entry.compress_size) for entry in entries) > path.stat().st_size:
        raise CheckpointError("has entries that are larger than the file itself", where=path, hint=_AGAIN)
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise CheckpointError("has two entries of one name", where=path, hint=_AGAIN)
    for entry in entries:
        if entry.filename.endswith("/data.pkl") and entry.file_size > _LONGEST_MODULE_PICKLE:
            raise CheckpointError(f"has a pickle of {entry.file_size} bytes", where=path, hint="It is no detector")
        if entry.filename.endswith("/byteorder") and archive.read(entry) != b"little":
            raise CheckpointError("was written by a big-endian computer", where=path, hint="Save it again elsewhere")


class _Storages:
    """The storages of an archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path) -> None:
        self.archive = archive
        self.folder = folder
        self.path = path
        self.read: dict[tuple[str, torch.dtype], _Storage] = {}

    def load(self, identity: object) -> _Storage:
        """("storage", type, key, device, count of numbers) -> the storage."""
        if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
            raise ValueError("an unknown kind of external data")
        _, kind, key, _, count = identity
        if not (isinstance(kind, _StorageType) and isinstance(key, str) and type(count) is int):
            raise ValueError("an unknown kind of storage")
        if (key, kind.dtype) not in self.read:
            raw = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            values = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
            if len(raw) % kind.dtype.itemsize:
                raise ValueError(f"storage {key} ends within a number")
            self.read[key, kind.dtype] = _Storage(values.view(kind.dtype))
        storage = self.read[key, kind.dtype]
        if len(storage.values) != count:
            raise ValueError(f"storage {key} has {len(storage.values)} numbers where it should have {count}")
        return storage


def _make_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_rest: object) -> Tensor:
    """A view of a storage that stays inside of it and has no more elements than it."""
    if not (isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise TypeError("a tensor without storage")
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)) or len(size) != len(stride):
        raise ValueError("a tensor of negative size")
    if len(size) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {len(size)} dimensions")
    available = len(storage.values)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > available or (0 not in size and last >= available):
        raise ValueError("a tensor that reaches beyond its storage")
    return torch.as_strided(storage.values, size, stride, offset)


def _make_parameter(data: Any, *_rest: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("a parameter without tensor")
    return data


_STORAGE_TYPES = {
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
}
_TORCH_NAMES: dict[str, object] = {
    "torch._utils._rebuild_tensor_v2": Builder(_make_tensor),
    "torch._utils._rebuild_parameter": Builder(_make_parameter),
    "torch.Size": Builder(make_tuple),
    **{f"torch.{name}Storage": _StorageType(dtype) for name, dtype in _STORAGE_TYPES.items()},
}


def _tensors_of_root(root: object, path: Path) -> dict[str, Tensor]:
    """Of what torch.save was given: a checkpoint dictionary, a module, or named tensors; averaged weights first."""
    if isinstance(root, dict):
        root = next((root[key] for key in ("ema", "model", "state_dict") if root.get(key)), root)
    if isinstance(root, Inert):
        return _tensors_of_module(root, path)
    named = {name: value for name, value in root.items() if isinstance(value, Tensor)} if isinstance(root, dict) else {}
    if not named:
        raise CheckpointError("holds no model", where=path, hint="Give a checkpoint of the official repository")
    return named


def _tensors_of_module(root: Inert, path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a module tree under the names that its `state_dict` would give them."""
    tensors: dict[str, Tensor] = {}
    pending = [("", root, 0)]
    seen = 0
    while pending:
        prefix, module, depth = pending.pop()
        seen += 1
        if seen > _MOST_MODULES or depth > _DEEPEST_MODULE:
            raise CheckpointError("holds a module tree without end", where=path, hint="It is no detector")
        for kind in ("_parameters", "_buffers"):
            for name, value in _entries(module, kind).items():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}{name}"] = value
        for name, child in _entries(module, "_modules").items():
            if isinstance(child, Inert):
                pending.append((f"{prefix}{name}.", child, depth + 1))
    return tensors


def _entries(module: Inert, kind: str) -> dict[str, object]:
    entries = module.attributes.get(kind)
    return {str(name): value for name, value in entries.items()} if isinstance(entries, dict) else {}


def _tensors_of_dictionary(path: Path) -> dict[str, Tensor]:
    root = read_pickle(path.read_bytes(), Vocabulary(), where=path)
    if not isinstance(root, dict):
        raise CheckpointError("holds no dictionary of arrays", where=path, hint="Give a .pt or .pdparams file")
    tensors = {}
    for name, value in root.items():
        if isinstance(value, tuple) and len(value) == 2:  # (the parameter's own name, array)
            value = value[1]
        if isinstance(value, Array) and value.value is not None:
            native = value.value.astype(value.value.dtype.newbyteorder("="))
            tensors[str(name)] = torch.from_numpy(np.ascontiguousarray(native))
    return tensors
