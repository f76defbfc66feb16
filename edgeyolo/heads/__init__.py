"""In: raw head maps and the `Decode` that describes them. Out: candidate boxes, or joints.

Verb: `box_head_of(decode).decode(maps)`, `joint_head_of(decode).decode_joints(maps)`.

A kind of head is one module without a leading underscore, with `HEAD`, a class of `Head`, whose `reads` is the struct
of `spec.model` that describes it. The folder is the registry.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from edgeyolo.heads._head import Anchors, BoxHead, Candidates, Head, JointHead, MapsHead, Predictions, RawHead, Tail
from edgeyolo.spec.errors import BackendError, UnknownNameError, UsageError
from edgeyolo.spec.model import Decode, RawDecode

__all__ = [
    "Anchors",
    "BoxHead",
    "Candidates",
    "Head",
    "JointHead",
    "MapsHead",
    "Predictions",
    "RawHead",
    "Tail",
    "box_head_of",
    "has_boxes",
    "head_of",
    "joint_head_of",
    "maps_head_of",
    "raw_head_of",
    "scored_decode",
]


def head_of(decode: Decode) -> Head:
    """What reads the outputs that `decode` describes.

    Raises:
        UnknownNameError: no module reads this kind.
    """
    kind = kind_of(type(decode))
    heads = _heads()
    if kind not in heads:
        raise UnknownNameError("kind of head", kind, heads)
    return heads[kind](decode)


def box_head_of(decode: Decode) -> BoxHead:
    """`head_of` for a network that finds boxes.

    Raises:
        UnknownNameError: no module reads this kind. UsageError: it finds joints.
    """
    head = head_of(decode)
    if not isinstance(head, BoxHead):
        raise UsageError("this network finds joints, not boxes", hint="Use it beside a detector: `detect --pose`")
    return head


def joint_head_of(decode: Decode) -> JointHead:
    """`head_of` for a network that finds joints.

    Raises:
        UnknownNameError: no module reads this kind. UsageError: it finds boxes.
    """
    head = head_of(decode)
    if not isinstance(head, JointHead):
        raise UsageError("this network finds boxes, not joints", hint="Give one that was trained for joints: hrnet")
    return head


def has_boxes(decode: Decode) -> bool:
    """Whether a network finds boxes, which may be decoded inside its graph."""
    return isinstance(head_of(decode), BoxHead)


def scored_decode(decode: Decode | None) -> RawDecode | None:
    """The struct itself, of raw maps with scores and boxes; None for others, whose values are what they are."""
    head = head_of(decode) if decode is not None else None
    return decode if isinstance(head, RawHead) else None  # type: ignore[return-value]


def maps_head_of(decode: Decode) -> MapsHead:
    """`head_of` for outputs that nodes behind them can decode.

    Raises:
        UnknownNameError, UsageError: as `box_head_of`. BackendError: boxes have been chosen inside the graph.
    """
    head = box_head_of(decode)
    if not isinstance(head, MapsHead):
        raise BackendError("the model is decoded inside its graph already", hint="Start from its raw maps")
    return head


def raw_head_of(decode: Decode) -> RawHead:
    """`head_of` for a network that gives its raw maps.

    Raises:
        UnknownNameError, UsageError: as `box_head_of`. BackendError: its boxes are decoded inside the graph.
    """
    head = box_head_of(decode)
    if not isinstance(head, RawHead):
        raise BackendError("the model is decoded inside its graph already", hint="Start from its raw maps")
    return head


def kind_of(struct: type[Decode]) -> str:
    """The word that stands for a struct in a manifest, such as "anchor"."""
    return str(struct.__struct_config__.tag)


@functools.cache
def _heads() -> dict[str, type[Head]]:
    """Kind -> its class."""
    names = [found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")]
    heads: list[type[Head]] = [importlib.import_module(f"{__name__}.{name}").HEAD for name in names]
    return {kind_of(head.reads): head for head in heads}
