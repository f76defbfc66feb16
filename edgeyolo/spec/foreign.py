"""`detector.toml`: what a person says of an ONNX detector that others have exported. What is left out is guessed."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

HeadKind = Literal["dfl", "anchor", "point", "boxes"]
Numbers3 = tuple[float, float, float]


class InputDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a picture becomes the network's input.

    Attributes:
        range: of a pixel before mean and std: "0-1" or "0-255".
        colour_order: of the channels.
        mean, std: per channel, in that range and order.
        letterbox_value: grey of the padding, 0-255.
        letterbox_alignment: where the resized picture stands.
    """

    range: Literal["0-1", "0-255"] | None = None
    colour_order: Literal["rgb", "bgr"] | None = None
    mean: Numbers3 | None = None
    std: Numbers3 | None = None
    letterbox_value: Annotated[int, Meta(ge=0, le=255)] | None = None
    letterbox_alignment: Literal["center", "top-left"] | None = None


class ForeignDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file, whole.

    Attributes:
        head: how outputs are read: raw maps as "dfl", "anchor" or "point", or decoded "boxes".
        outputs: tensors of the graph, outputs or not: of a raw head in the order of its maps, level by level, finest
            first (dfl: classes, distribution; point: classes, objectness if there is one, box; anchor: the map); of
            boxes the one output, or the boxes and the scores.
        strides: of raw maps, finest first.
        bins: of dfl.
        offset: of dfl's points in their cells.
        anchors_wh: of anchor, per level, in input pixels.
        box: "centre" or "sides" of point, "cxcywh" or "xyxy" of boxes.
        objectness: whether point or boxes have one.
        unit: of boxes: "pixels" of the input, or its "share".
        scores: of boxes: "sigmoid" where they are shares already, "logit" where they are not.
        class_names: where `--names` is not given.
        source, licence: of the weights; an SPDX name.
        input: how a picture becomes the input.
    """

    head: HeadKind | None = None
    outputs: tuple[str, ...] = ()
    strides: tuple[int, ...] = ()
    bins: Annotated[int, Meta(ge=1, le=1024)] | None = None
    offset: Annotated[float, Meta(ge=0, le=1)] | None = None
    anchors_wh: tuple[tuple[tuple[float, float], ...], ...] = ()
    box: Literal["centre", "sides", "cxcywh", "xyxy"] | None = None
    objectness: bool | None = None
    unit: Literal["pixels", "share"] | None = None
    scores: Literal["sigmoid", "logit"] | None = None
    class_names: tuple[str, ...] = ()
    source: str | None = None
    licence: str | None = None
    input: InputDescription = InputDescription()
