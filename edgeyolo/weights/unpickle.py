"""Pickles of other people, read by a machine of our own that can build numbers, text, containers and arrays.

Nothing is imported and nothing of the file's is called: a name in the file is looked up in tables of ours. A name of an
inert kind becomes a holder of the attributes that the file gives it; any other name is refused.
Source: the operations as documented by `pickletools` in Python's standard library.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeyolo.spec.errors import CheckpointError

_MOST_OPERATIONS = 4_000_000
_MOST_DIMENSIONS = 8
_LEAST_BUDGET = 10_000
_PLAIN_KEYS = (str, int, float, bytes, type(None))
_ARRAY_CODES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}
_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}


@dataclass(frozen=True)
class InertName:
    """A class that a file names and that stays a name."""

    path: str


@dataclass(eq=False)
class Inert:
    """What a file says about an object of an inert class: its attributes, and nothing that acts."""

    path: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Builder:
    """A function of ours that stands in for one that a file names."""

    build: Callable[..., object]


@dataclass(eq=False)
class Array:
    """A numpy array; its value comes after it was first named."""

    value: np.ndarray[Any, np.dtype[Any]] | None = None


@dataclass(eq=False)
class _NumberType:
    """A numpy dtype; its byte order comes after it was first named."""

    code: str
    order: str = "="

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass(frozen=True)
class Vocabulary:
    """What a kind of file may name.

    Attributes:
        known: dotted name -> what stands for it.
        inert: beginnings of the dotted names of classes that become holders.
        load_external: a persistent id -> the object kept outside of the pickle; None where there is none.
    """

    known: Mapping[str, object] = field(default_factory=dict)
    inert: tuple[str, ...] = ()
    load_external: Callable[[object], object] | None = None


def read_pickle(data: bytes, vocabulary: Vocabulary, *, where: object) -> object:
    """The object in a pickle.

    Raises:
        CheckpointError: broken, too long, or it names or does something that weights do not need; says what.
    """
    machine = _Machine(vocabulary, where, budget=4 * len(data) + _LEAST_BUDGET)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if count > _MOST_OPERATIONS:
                raise ValueError(f"more than {_MOST_OPERATIONS} operations")
            if operation.name == "STOP":
                return machine.stack.pop()
            machine.step(operation.name, argument)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, AssertionError, struct.error) as error:
        raise CheckpointError(
            f"cannot be read as a pickle ({error})", where=where, hint="Download or copy it again"
        ) from None
    raise AssertionError("a pickle without STOP is a ValueError")


class _Machine:
    """Stack and memo of one pickle.

    Attributes:
        budget: items that builders may still be given; without it a short file could copy one long list for ever.
    """

    def __init__(self, vocabulary: Vocabulary, where: object, *, budget: int) -> None:
        self.vocabulary = vocabulary
        self.where = where
        self.budget = budget
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, object] = {}

    def step(self, operation: str, argument: Any) -> None:
        """Do one operation."""
        if operation in _PUSHED:
            self.stack.append(argument)
        elif operation in _MAKERS:
            self.stack.append(_MAKERS[operation]())
        elif operation in _STEPS:
            _STEPS[operation](self, argument)
        else:
            raise self.refuse(f"the pickle operation {operation}")

    def refuse(self, what: str) -> CheckpointError:
        """The error for something that weights do not need."""
        return CheckpointError(
            f"asks for {what}, which reading weights does not need; refused",
            where=self.where,
            hint="It may be made to do harm: use a file from its authors",
        )

    def push(self, item: object) -> None:
        """Onto the stack as it is after the operands are gone."""
        self.stack.append(item)

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, which goes."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def resolve(self, path: str) -> None:
        """Push what stands for a dotted name."""
        if path in _KNOWN:
            self.stack.append(_KNOWN[path])
        elif path in self.vocabulary.known:
            self.stack.append(self.vocabulary.known[path])
        elif path.startswith(self.vocabulary.inert):
            self.stack.append(InertName(path))
        else:
            raise self.refuse(f"'{path}'")

    def call(self, target: object, arguments: object, keywords: object = None) -> None:
        """Push what `target` makes of `arguments`."""
        if isinstance(target, InertName):
            self.stack.append(Inert(target.path))
        elif isinstance(target, Builder) and isinstance(arguments, tuple) and not keywords:
            self.budget -= sum(len(a) for a in arguments if isinstance(a, (str, bytes, list, tuple, dict, set)))
            if self.budget < 0:
                raise ValueError("it unfolds to more than it holds")
            self.stack.append(target.build(*arguments))
        else:
            raise self.refuse(f"a call of {type(target).__name__}")

    def build(self) -> None:
        """Give the object below the top of the stack the state on top."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            for part in state if isinstance(state, tuple) else (state,):
                target.attributes.update(_check_keys(part) if isinstance(part, dict) else {})
        elif isinstance(target, Array):
            target.value = _array_of(*state)
        elif isinstance(target, _NumberType):
            target.order = _byte_order(state[1])
        elif not isinstance(target, dict):  # attributes of an OrderedDict have no part in weights
            raise self.refuse(f"state for {type(target).__name__}")

    def set_items(self, pairs: list[Any]) -> None:
        """Key, value, key, value ... into the dictionary on top."""
        target = self.stack[-1]
        if type(target) is not dict:
            raise self.refuse(f"items in {type(target).__name__}")
        target.update(_pair_up(pairs))

    def extend(self, items: list[Any]) -> None:
        """Items onto the list, or into the set, on top."""
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(_make_set(items))
        else:
            raise self.refuse(f"items in {type(target).__name__}")

    def load_external(self) -> None:
        """Replace a persistent id by what it stands for."""
        load = self.vocabulary.load_external
        if load is None:
            raise self.refuse("data outside of the pickle")
        self.stack.append(load(self.stack.pop()))


def _check_keys(items: dict[Any, Any]) -> dict[Any, Any]:
    """Plain keys only: hashing a nested tuple can take forever."""
    for key in items:
        _check_key(key)
    return items


def _check_key(key: object) -> object:
    if not isinstance(key, _PLAIN_KEYS):
        raise TypeError(f"a key that is a {type(key).__name__}")
    return key


def _pair_up(flat: list[Any]) -> dict[Any, Any]:
    return {_check_key(key): value for key, value in zip(flat[::2], flat[1::2], strict=True)}


def _make_set(items: Any = ()) -> set[Any]:
    return {_check_key(item) for item in items}


def _make_dict(pairs: Any = ()) -> dict[Any, Any]:
    return {_check_key(key): value for key, value in pairs}


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes written as {encoding}")
    return text.encode("latin-1")


def _number_type(code: object, *_flags: object) -> _NumberType:
    if not isinstance(code, str):
        raise TypeError("arrays of no type")
    if code not in _ARRAY_CODES:
        raise ValueError(f"arrays of {code[:20]!r}")
    return _NumberType(code)


def _byte_order(mark: object) -> str:
    if not isinstance(mark, str) or mark not in "<>|=" or len(mark) != 1:
        raise ValueError("no byte order")
    return mark


def make_tuple(items: object = ()) -> tuple[Any, ...]:
    """What a file's `tuple(items)` gives; items of a list or tuple only."""
    if not isinstance(items, (list, tuple)):
        raise TypeError("a tuple of no items")
    return tuple(items)


def _array_of(_version: int, shape: Any, kind: Any, fortran: bool, raw: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """An array of exactly these bytes."""
    if not (isinstance(kind, _NumberType) and isinstance(raw, bytes) and isinstance(shape, tuple)):
        raise TypeError("an array that is not numbers")
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"an array of {len(shape)} dimensions")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("an array of negative size")
    if math.prod(shape) * kind.dtype().itemsize != len(raw):
        raise ValueError(f"an array of shape {shape} in {len(raw)} bytes")
    return np.frombuffer(raw, kind.dtype()).reshape(shape, order="F" if fortran else "C")


def _scalar_of(kind: Any, raw: Any) -> object:
    value: object = _array_of(1, (), kind, False, raw).item()
    return value


_KNOWN: dict[str, object] = {
    "collections.OrderedDict": Builder(_make_dict),
    "_codecs.encode": Builder(_encode),
    "numpy.ndarray": InertName("numpy.ndarray"),
    "numpy.dtype": Builder(_number_type),
}
for _builtins in ("builtins", "__builtin__"):
    _KNOWN |= {f"{_builtins}.set": Builder(_make_set), f"{_builtins}.tuple": Builder(make_tuple)}
for _numpy in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _KNOWN |= {f"{_numpy}._reconstruct": Builder(lambda *_: Array()), f"{_numpy}.scalar": Builder(_scalar_of)}

_MAKERS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}


def _take(machine: _Machine, count: int) -> list[Any]:
    if count > len(machine.stack):
        raise IndexError("an operation without operands")
    taken = machine.stack[-count:]
    del machine.stack[-count:]
    return taken


def _mark(m: _Machine, _: Any) -> None:
    m.outer.append(m.stack)
    m.stack = []


def _put(m: _Machine, position: Any) -> None:
    m.memo[len(m.memo) if position is None else position] = m.stack[-1]


def _make_object(m: _Machine, _: Any) -> None:
    target, *arguments = m.since_mark()
    m.call(target, tuple(arguments))


def _make_named(m: _Machine, name: Any) -> None:
    arguments = tuple(m.since_mark())
    m.resolve(name.replace(" ", "."))
    m.call(m.stack.pop(), arguments)


_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": _mark,
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "MEMOIZE": _put,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "GET": lambda m, at: m.push(m.memo[at]),
    "BINGET": lambda m, at: m.push(m.memo[at]),
    "LONG_BINGET": lambda m, at: m.push(m.memo[at]),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "DICT": lambda m, _: m.push(_pair_up(m.since_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(_take(m, 1))),
    "TUPLE2": lambda m, _: m.push(tuple(_take(m, 2))),
    "TUPLE3": lambda m, _: m.push(tuple(_take(m, 3))),
    "APPEND": lambda m, _: m.extend(_take(m, 1)),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items(_take(m, 2)),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "GLOBAL": lambda m, name: m.resolve(name.replace(" ", ".")),
    "STACK_GLOBAL": lambda m, _: m.resolve(".".join(_take(m, 2))),
    "REDUCE": lambda m, _: m.call(*_take(m, 2)),
    "NEWOBJ": lambda m, _: m.call(*_take(m, 2)),
    "NEWOBJ_EX": lambda m, _: m.call(*_take(m, 3)),
    "INST": _make_named,
    "OBJ": _make_object,
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.load_external(),
}
