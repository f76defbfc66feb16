"""Pickles of other people, read so that nothing in them runs.

Python's own unpickler reads them, cut down to numbers, text, bytes and containers. What a file names is looked up in
tables of ours: a name that is known is a function of ours, a name of a foreign kind becomes a `ForeignObject`, which
holds what the file says about it and cannot act, and any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeyolo.spec.errors import CheckpointError

_MOST_OPERATIONS = 1_000_000  # the largest network published, its average and its optimizer take 351,000
_PLAIN_KEYS = (str, int, float, bytes, type(None))
_READ_BY_PYTHON = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("GLOBAL", "STACK_GLOBAL", "BINPERSID"),
)
_BROKEN = (ValueError, TypeError, LookupError, AttributeError, OverflowError, EOFError, struct.error)


@dataclass(eq=False)
class ForeignObject:
    """What a file says about an object of somebody else's class: its attributes, and nothing that acts."""

    path: str
    attributes: dict[Any, Any] = field(default_factory=dict)

    def set_state(self, state: object) -> None:
        """Take the attributes that the file gives."""
        for part in state if isinstance(state, tuple) else (state,):
            self.attributes.update(part if isinstance(part, dict) else {})


@dataclass(frozen=True)
class _ForeignClass:
    """A class or function of somebody else's: whatever it is called with, it makes a `ForeignObject`."""

    path: str

    def __call__(self, *_arguments: object) -> ForeignObject:
        return ForeignObject(self.path)


@dataclass(frozen=True)
class Vocabulary:
    """What a kind of file may name.

    Attributes:
        known: dotted name -> function of ours that is called in its place, or something that cannot be called.
        foreign: beginnings of the dotted names that become `ForeignObject`.
        load_external: a persistent id -> the object that is kept outside of the pickle; None where there is none.
    """

    known: Mapping[str, object]
    foreign: tuple[str, ...] = ()
    load_external: Callable[[object], object] | None = None


def read_pickle(data: bytes, vocabulary: Vocabulary, *, where: object) -> object:
    """The object in a pickle.

    Raises:
        CheckpointError: broken, too long, or it names or does something that weights do not need; says what.
    """
    try:
        return _Reader(data, vocabulary, where).load()
    except (*_BROKEN, pickle.UnpicklingError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error) or "it ends early"
        raise CheckpointError(
            f"cannot be read as a pickle ({reason})", where=where, hint="Download or copy it again"
        ) from None


class _Reader(pickle._Unpickler):
    """One pickle being read.

    Python's reader that is written in Python: its memo is a dictionary, so that a position of four thousand million
    takes no memory; it allocates nothing before the bytes are there; and each of its steps can be taken away.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, data: bytes, vocabulary: Vocabulary, where: object) -> None:
        super().__init__(io.BytesIO(data))
        self.vocabulary = vocabulary
        self.where = where
        self.operations = 0
        self.text_left = len(data)  # that functions may still be given, or a short file could copy one text for ever

    def refuse(self, what: str) -> CheckpointError:
        """The error for something that weights do not need."""
        return CheckpointError(
            f"asks for {what}, which reading weights does not need; refused",
            where=self.where,
            hint="It may be made to do harm: use a file from its authors",
        )

    def find_class(self, module: str, name: str) -> object:
        """What stands for a name; nothing is imported."""
        path = f"{module}.{name}"
        if path == "collections.OrderedDict":
            return _make_dict
        if path in self.vocabulary.known:
            return self.vocabulary.known[path]
        if path.startswith(self.vocabulary.foreign):
            return _ForeignClass(path)
        raise self.refuse(f"'{path}'")

    def persistent_load(self, pid: object) -> object:
        """The object outside of the pickle that `pid` names."""
        if self.vocabulary.load_external is None:
            raise self.refuse("data outside of the pickle")
        return self.vocabulary.load_external(pid)

    def call(self) -> None:
        """Call what stands for a name with the tuple on top; only `find_class` puts what can be called on the stack."""
        arguments = self.stack.pop()
        target = self.stack.pop()
        if not callable(target) or type(arguments) is not tuple:
            raise self.refuse(f"a call of {type(target).__name__}")
        self.text_left -= sum(len(argument) for argument in arguments if isinstance(argument, str))
        if self.text_left < 0:
            raise ValueError("it unfolds to more than it holds")
        self.stack.append(target(*arguments))

    def set_state(self) -> None:
        """Give the object below the top the state on top; attributes of a dictionary have no part in weights."""
        state = self.stack.pop()
        target = self.stack[-1]
        take = getattr(target, "set_state", None)
        if take is not None:
            take(state)
        elif type(target) is not dict:
            raise self.refuse(f"state for {type(target).__name__}")

    def set_item(self) -> None:
        """One key and value into the dictionary below them."""
        pair = [self.stack.pop(), self.stack.pop()]
        self._fill(pair[::-1])

    def set_items(self) -> None:
        """Key, value, key, value ... since the mark into the dictionary below it."""
        self._fill(self.pop_mark())

    def _fill(self, flat: list[Any]) -> None:
        """Plain keys only: to hash a nested tuple can take for ever, or all of the C stack."""
        target = self.stack[-1]
        if type(target) is not dict:
            raise self.refuse(f"items in {type(target).__name__}")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, _PLAIN_KEYS):
                raise TypeError(f"a key that is a {type(key).__name__}")
            target[key] = value


def _make_dict() -> dict[Any, Any]:
    """Empty: what is in it comes as items, whose keys are checked."""
    return {}


def _counted(step: Callable[[Any], None]) -> Callable[[_Reader], None]:
    def run(reader: _Reader) -> None:
        reader.operations += 1
        if reader.operations > _MOST_OPERATIONS:
            raise ValueError(f"more than {_MOST_OPERATIONS} operations")
        step(reader)

    return run


def _refused(operation: str) -> Callable[[_Reader], None]:
    def refuse(reader: _Reader) -> None:
        raise reader.refuse(f"the pickle operation {operation}")

    return refuse


def _steps() -> dict[int, Callable[[Any], None]]:
    """What each operation does; sets have no part in weights, and None stands for them."""
    python = pickle._Unpickler.dispatch
    steps: dict[str, Callable[[Any], None]] = {name: python[getattr(pickle, name)[0]] for name in _READ_BY_PYTHON}
    steps |= {"REDUCE": _Reader.call, "NEWOBJ": _Reader.call, "BUILD": _Reader.set_state}
    steps |= {"SETITEM": _Reader.set_item, "SETITEMS": _Reader.set_items}
    steps |= {"EMPTY_SET": steps["NONE"], "ADDITEMS": steps["POP_MARK"]}
    return {
        ord(operation.code): _counted(steps[operation.name]) if operation.name in steps else _refused(operation.name)
        for operation in pickletools.opcodes
    }


_Reader.dispatch = _steps()
