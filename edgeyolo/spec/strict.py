"""TOML and JSON into typed structs, strictly: an unknown key is an error that names the nearest valid one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from edgeyolo.spec.errors import FormatError, nearest_name

S = TypeVar("S")

_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<field>[^`]*)`")


def decode_json(raw: bytes, kind: type[S], *, where: object) -> S:
    """Parse JSON bytes as `kind`.

    Raises:
        FormatError: not JSON, a missing or unknown key, or a value of another type; names `where`.
    """
    try:
        return _as(kind, raw, msgspec.json.decode)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _format_error(error, kind, where) from None


def decode_toml(raw: bytes, kind: type[S], *, where: object) -> S:
    """Parse TOML bytes as `kind`; errors as in `decode_json`."""
    try:
        return _as(kind, raw, msgspec.toml.decode)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _format_error(error, kind, where) from None


def load_json(path: Path, kind: type[S]) -> S:
    """Read a JSON file as `kind`; errors as in `decode_json`, also for a file that cannot be read."""
    return decode_json(_read(path), kind, where=path)


def load_toml(path: Path, kind: type[S], *, defaults: dict[str, Any]) -> S:
    """Read a TOML file as `kind`, with `defaults` for keys that it leaves out; errors as in `load_json`."""
    raw = _read(path)
    given = decode_toml(raw, dict, where=path)
    try:
        return msgspec.convert(defaults | given, kind)
    except msgspec.ValidationError as error:
        raise _format_error(error, kind, path) from None


def encode_json(value: Any) -> bytes:
    """A struct as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", where=path) from None


def _as(kind: type[S], raw: bytes, decode: Callable[..., Any]) -> S:
    """Decoded as `kind`; if that fails, once more with the words of older versions replaced."""
    try:
        return cast(S, decode(raw, type=kind))
    except msgspec.ValidationError:
        older: dict[Any, str] = {}
        for struct in _structs_in(kind):
            older |= getattr(struct, "OLDER_WORDS", {})
        if not older:
            raise
        return msgspec.convert(_replaced(decode(raw), older), kind)


def _replaced(value: Any, older: dict[Any, str]) -> Any:
    """With other keys, and other values of (key, value) pairs, at any depth."""
    if isinstance(value, list):
        return [_replaced(item, older) for item in value]
    if not isinstance(value, dict):
        return value
    pairs = ((key, older.get((key, item), item) if isinstance(item, str) else item) for key, item in value.items())
    return {older.get(key, key): _replaced(item, older) for key, item in pairs}


def _format_error(error: Exception, kind: type, where: object) -> FormatError:
    found = _UNKNOWN_FIELD.search(str(error))
    hint = ""
    if found:
        near = nearest_name(found["field"], _field_names(kind))
        hint = f"Did you mean '{near}'?" if near else f"Valid keys: {', '.join(sorted(_field_names(kind)))}"
    return FormatError(str(error), where=where, hint=hint)


def _field_names(kind: Any) -> set[str]:
    """All key names in a struct type and the struct types inside it."""
    return {name for struct in _structs_in(kind) for name in struct.__struct_encode_fields__}


def _structs_in(kind: Any) -> set[Any]:
    """A struct type and the struct types inside it."""
    pending, seen = [kind], set()
    while pending:
        current = pending.pop()
        if get_origin(current) is not None:
            pending.extend(get_args(current))
        elif isinstance(current, type) and issubclass(current, msgspec.Struct) and current not in seen:
            seen.add(current)
            pending.extend(get_type_hints(current).values())
    return seen
