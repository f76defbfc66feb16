"""A JSON object whose lists are too long to be held as a whole: its lists of objects, piece by piece."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

_WINDOW_BYTES = 1 << 22
_SPACE = b" \t\r\n"
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_SCALAR_END = re.compile(rb"[,}\s]")
_OPENING, _CLOSING, _QUOTE = 1, 2, 3
_KIND = bytearray(256)  # of the bytes that make the structure; 0 for all others
_KIND[ord("[")] = _KIND[ord("{")] = _OPENING
_KIND[ord("]")] = _KIND[ord("}")] = _CLOSING
_KIND[ord('"')] = _QUOTE
_OTHERS = bytes(byte for byte in range(256) if not _KIND[byte])
_TAIL_BYTES = 1 << 12


def list_pieces(path: Path) -> Iterator[tuple[str, bytes]]:
    """Walk through the file: the keys and values of the outermost object as JSON, of a list only its next elements.

    A list may come in several pieces, each of them a list. Only the structure is looked at: what is in a piece is for a
    decoder to check.

    Raises:
        ValueError: the structure is not that of a JSON object. OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        yield from _Walk(_as_utf8(stream)).lists()


def _as_utf8(stream: BinaryIO) -> BinaryIO:
    """Without a byte order mark; from another of the encodings that JSON may have, all at once."""
    head = stream.read(4)
    encoding = json.detect_encoding(head)
    stream.seek(0)
    if encoding == "utf-8":
        return stream
    if encoding == "utf-8-sig":
        stream.seek(len(codecs.BOM_UTF8))
        return stream
    return io.BytesIO(stream.read().decode(encoding).encode())


class _Walk:
    """What is read of the file and not yet passed: `text`, which never begins inside a string."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._text = b""

    def lists(self) -> Iterator[tuple[str, bytes]]:
        self._take("{")
        following = self._peek()
        while following != b"}":
            if following != b'"':
                raise ValueError(f"a key was wanted, not '{following.decode(errors='replace')}'")
            key = json.loads(self._pass(self._end_of_value()))
            self._take(":")
            if self._peek() == b"[":
                for piece in self._pieces():
                    yield key, piece
            else:
                yield key, self._pass(self._end_of_value())
            following = self._peek()
            if following != b"}":
                self._take(",")
                following = self._peek()
                if following == b"}":
                    raise ValueError("a key was wanted, not '}'")
        self._take("}")
        if self._peek():
            raise ValueError("there is something behind its end")

    def _pieces(self) -> Iterator[bytes]:
        """The list that comes next, as lists of some of its elements."""
        self._take("[")
        while True:
            structure = _Structure(self._text)
            ends = np.flatnonzero(structure.depth < 0)
            if len(ends):
                yield b"[" + self._pass(structure.place(ends[0])) + b"]"
                self._take("]")
                return
            between = np.flatnonzero((structure.depth == 0) & (structure.kinds == _CLOSING))
            if len(between):
                yield b"[" + self._pass(structure.place(between[-1]) + 1) + b"]"
                if self._peek() != b"]":
                    self._take(",")
                    if self._peek() == b"]":
                        raise ValueError("an element was wanted, not ']'")
            else:
                self._read_more()

    def _end_of_value(self) -> int:
        """Where the value that comes next ends, in the text, which then holds it."""
        first = self._peek()
        while True:
            if first in (b"{", b'"'):
                structure = _Structure(self._text)
                wanted, skipped = (_QUOTE, 1) if first == b'"' else (_CLOSING, 0)
                found = np.flatnonzero((structure.depth == 0) & (structure.kinds == wanted))[skipped:]
                if len(found):
                    return structure.place(found[0]) + 1
            elif match := _SCALAR_END.search(self._text):
                return match.start()
            self._read_more()

    def _peek(self) -> bytes:
        """The next byte that is no space, now the first of the text; none at the end of the file."""
        while True:
            self._text = self._text.lstrip(_SPACE)
            if self._text:
                return self._text[:1]
            self._text = self._stream.read(_WINDOW_BYTES)
            if not self._text:
                return b""

    def _take(self, wanted: str) -> None:
        found = self._peek().decode(errors="replace")
        if found != wanted:
            raise ValueError(
                f"'{wanted}' was wanted, not '{found}'" if found else f"it ends where '{wanted}' was wanted"
            )
        self._text = self._text[1:]

    def _pass(self, end: int) -> bytes:
        passed, self._text = self._text[:end], self._text[end:]
        return passed

    def _read_more(self) -> None:
        more = self._stream.read(max(_WINDOW_BYTES, len(self._text)))
        if not more:
            raise ValueError("it ends in the middle of a value")
        self._text += more


class _Structure:
    """The brackets and quotes of a text.

    Attributes:
        kinds: of each; 0 for a bracket inside a string.
        depth: how deep it is behind each, seen from the beginning.
    """

    def __init__(self, text: bytes) -> None:
        self._text = _ESCAPE.sub(b"__", text) if b"\\" in text else text
        self.kinds = np.frombuffer(bytearray(self._text.translate(_KIND, _OTHERS)), np.uint8)
        is_quote = self.kinds == _QUOTE
        self.kinds[~is_quote & np.logical_xor.accumulate(is_quote)] = 0
        self.depth = np.cumsum(
            (self.kinds == _OPENING).view(np.int8) - (self.kinds == _CLOSING).view(np.int8), dtype=np.int32
        )

    def place(self, row: np.intp) -> int:
        """Where in the text one of them is; looked for from the end, which it is near."""
        behind, size = len(self.kinds) - int(row), _TAIL_BYTES
        while True:
            tail = np.frombuffer(self._text[-size:].translate(_KIND), np.uint8)
            at = np.flatnonzero(tail)
            if len(at) >= behind:
                return len(self._text) - len(tail) + int(at[-behind])
            size *= 16
