"""Boards that others measured: one TOML each beside this file, with its source and the licence of the figures."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.strict import decode_toml
from edgeyolo.spec.target import Precision, list_targets, load_target, target_name

_FOLDER = Path(__file__).with_name("boards")


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One board, measured once by its user.

    Attributes:
        on: as its user describes it.
        threads: of the engine.
        ms: network -> milliseconds of its fastest run; see `networks`.
    """

    on: str
    threads: int
    ms: dict[str, float]


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One network on a board whose engine nobody can run elsewhere.

    Attributes:
        gflops: as the network's authors give them.
        source: who published `ms`.
    """

    model: str
    image_size: int
    gflops: float
    precision: Precision
    ms: float
    source: str


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a board.

    Attributes:
        title: for people.
        target: whose bundles it runs.
        engine: that was measured.
        core: whose instructions are counted, as the engine names it; a near relative's where it has none of its own.
        floats: in which the engine computed there what is not int8.
        source: of the runs. licence: of them.
        runs: of networks with known layers.
        points: of networks of which no more than the size is known.
    """

    title: str
    target: str
    engine: str
    core: str = ""
    floats: Precision = "fp32"
    source: str = ""
    licence: str = ""
    runs: tuple[Run, ...] = ()
    points: tuple[Point, ...] = ()

    @property
    def threads(self) -> int:
        """The most that it was measured with."""
        return max((run.threads for run in self.runs), default=0)

    def nearest_threads(self, wanted: int) -> int:
        """The number that it was measured with and that is nearest to `wanted`, 0 for the most."""
        measured = {run.threads for run in self.runs}
        return min(measured, key=lambda count: (abs(count - wanted), count)) if wanted and measured else self.threads


def list_boards() -> list[str]:
    """Names of the boards, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


@functools.cache
def load_board(name: str) -> Board:
    """A board by its name.

    Raises:
        UnknownNameError: none of that name. FormatError: its file is not valid.
    """
    if name not in list_boards():
        raise UnknownNameError("board", name, list_boards())
    path = _FOLDER / f"{name}.toml"
    return decode_toml(path.read_bytes(), Board, where=path)


def boards_of(name: str) -> list[str]:
    """The board of that name, or the boards that run the bundles of a target of that name, or alias.

    Raises:
        UnknownNameError: neither a board nor a target. UsageError: a target of whose boards nothing is published.
    """
    if name in list_boards():
        return [name]
    target = target_name(name)
    found = [board for board in list_boards() if load_board(board).target == target]
    if found:
        return found
    if target in list_targets():
        what = f"nothing is published of how long networks take on {name} ({load_target(target).title})"
        raise UsageError(what, hint=f"Boards that are known: {', '.join(list_boards())}")
    raise UnknownNameError("board", name, {*list_boards(), *(load_board(board).target for board in list_boards())})
