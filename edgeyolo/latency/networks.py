"""The networks that users of ncnn measure on their boards: their convolutions, and their time on one known computer.

`networks.json` is written by `benchmarks/estimate_data.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeyolo.spec.strict import load_json
from edgeyolo.spec.work import Convolution

_FILE = Path(__file__).with_name("networks.json")


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network.

    Attributes:
        ms: on the known computer, in one thread.
        convolutions: each as the values of a `Convolution`, kernel height and width first.
    """

    ms: float
    convolutions: tuple[tuple[int, int, int, int, int, int, int, bool], ...]

    def list_convolutions(self) -> list[Convolution]:
        """Its layers."""
        return [Convolution((row[0], row[1]), *row[2:]) for row in self.convolutions]


class KnownNetworks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of them.

    Attributes:
        source: of the structures. licence: of them.
        measured_on: the known computer.
        rulers: name -> milliseconds there, in one thread; see `Engine.open_rulers`.
        networks: by name; what ends in "_int8" is the twin of another.
    """

    source: str
    licence: str
    measured_on: str
    rulers: dict[str, float]
    networks: dict[str, Known]


@functools.cache
def load_known() -> KnownNetworks:
    """The file that is shipped."""
    return load_json(_FILE, KnownNetworks)


def twins(name: str) -> str:
    """What a network and its int8 twin have in common."""
    return name.removesuffix("_int8")


def as_row(one: Convolution) -> Sequence[int | bool]:
    """How the file writes a convolution."""
    return (*one.kernel_hw, one.stride, one.groups, one.in_chs, one.out_chs, one.positions, one.is_int8)
