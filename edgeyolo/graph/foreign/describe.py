"""What a foreign graph's outputs mean and what it wants to see: as it is told, and else as it is found by running it.

Raw maps are preferred to boxes that the graph decodes itself: numpy decodes only those predictions that count, and half
precision never has to hold a coordinate. A reading of raw maps is taken where it gives the file's own boxes.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeyolo.graph.foreign.head_layers import Candidate, HeadMap, Shapes, head_convolutions, list_candidates, stride_of
from edgeyolo.graph.foreign.plain import infer_shapes, open_graph, random_picture, run_graph
from edgeyolo.graph.foreign.rows import (
    Rows,
    Values,
    agrees,
    are_logits,
    find_rows,
    likely_form,
    tensors_of,
    with_anchors,
)
from edgeyolo.spec.coco_classes import COCO_CLASSES
from edgeyolo.spec.errors import BackendError, UnknownNameError, UsageError
from edgeyolo.spec.foreign import ForeignDescription, InputDescription
from edgeyolo.spec.model import AnchorDecode, BoxesDecode, InputSpec, PointDecode, RawDecode

if TYPE_CHECKING:
    from onnx import ModelProto

_MOST_METADATA = 1 << 20  # characters
_HINT = "Say what they are: --describe FILE.toml (docs/foreign-onnx.md)"


@dataclass(frozen=True)
class Guess:
    """Something that nobody has said: what, which value it was given, and by what."""

    what: str
    value: str
    why: str


@dataclass(frozen=True)
class Described:
    """All that the rest of the tool must know of a graph.

    Attributes:
        tensors: raw maps in the order of the head; empty where the graph decodes boxes itself.
        rows: where it does.
        is_share, are_logits: whether its boxes are shares of the picture, and its scores logits.
        guesses: all of it that was not told.
    """

    decode: RawDecode | BoxesDecode
    class_names: tuple[str, ...]
    input: InputSpec
    tensors: tuple[str, ...] = ()
    rows: Rows | None = None
    is_share: bool = False
    are_logits: bool = False
    guesses: tuple[Guess, ...] = ()


def describe(
    model: ModelProto, told: ForeignDescription, class_names: Sequence[str] | None, *, where: Path
) -> Described:
    """Read the outputs of a plain graph.

    Args:
        class_names: None for those that the file has, or COCO's where their number fits.

    Raises:
        BackendError: its outputs are nothing that is known, or not what was told. UsageError: no or too few names.
    """
    shapes = infer_shapes(model)
    _check_named(told.outputs, shapes, where)
    image_hw = shapes[model.graph.input[0].name][2:]
    names = tuple(class_names or told.class_names or _names_in(model))
    maps, _ = head_convolutions(model, shapes, (image_hw[0], image_hw[1]))
    if told.outputs and told.head != "boxes":
        maps = _told_maps(told.outputs, shapes, (image_hw[0], image_hw[1]), where)
    rows = None if told.outputs and told.head not in (None, "boxes") else find_rows(model, shapes, told)

    def find(known_classes: int) -> Described | None:
        candidates = list(list_candidates(maps, told, known_classes or None))
        with np.errstate(over="ignore", invalid="ignore"):  # what a network without sense computes fits nothing
            return _by_running(model, candidates, rows, told, known_classes, where)

    found = find(len(names))
    if found is not None and names and len(found.class_names) != len(names):
        found = find(0) or found  # names that do not fit are not to decide what the file is
    if found is None:
        raise BackendError(_what_there_is(model, maps, shapes, told), where=where, hint=_HINT)
    count = len(found.class_names)
    named = _named(names, count, where)
    source = [] if class_names or told.class_names else [_names_guess(names, count)]
    spec, guesses = _input_spec(told.input, found.decode, (image_hw[0], image_hw[1]))
    return replace(found, class_names=named, input=spec, guesses=(*found.guesses, *source, *guesses))


def _by_running(
    model: ModelProto,
    candidates: list[Candidate],
    rows: Rows | None,
    told: ForeignDescription,
    known_classes: int,
    where: Path,
) -> Described | None:
    """The first candidate that gives the file's own rows; else these, or the first candidate where there are none."""
    image_hw = tuple(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[2:])
    height, width = image_hw
    values = _run_with(model, [*tensors_of(candidates), *(rows.outputs if rows else ())], (height, width), where)
    own = rows.read(values) if rows else None
    for candidate in candidates:
        solved = candidate
        if own is not None and isinstance(candidate.decode, AnchorDecode) and not told.anchors_wh:
            solved = with_anchors(candidate, own, values)
        how = agrees(solved, own, values, (height, width), told) if own is not None else ""
        if how == "raw" and told.head == "boxes":
            raise BackendError("its rows are raw maps, no boxes", where=where, hint="Import it with --head point")
        if how and told.head != "boxes":
            return _raw(solved, told, "gives the boxes of the file" if how == "decoded" else "its maps are the rows")
    if told.head == "boxes":
        return _boxes(model, rows, own, told, known_classes) if rows is not None and own is not None else None
    usable = [found for found in candidates if not isinstance(found.decode, AnchorDecode) or told.anchors_wh]
    if usable and (own is None or told.head is not None):
        why = "by number and channels of its last convolutions" if own is None else "asked for; the file's boxes differ"
        return _raw(usable[0], told, why)
    if rows is None or own is None or told.head is not None:
        return None
    return _boxes(model, rows, own, told, known_classes)


def _raw(candidate: Candidate, told: ForeignDescription, why: str) -> Described:
    decode, tag = candidate.decode, candidate.decode.__struct_config__.tag
    guesses = []
    if told.head is None:
        guesses.append(Guess("head", str(tag), why))
    if not told.outputs:
        guesses.append(Guess("outputs", ", ".join(candidate.tensors), why))
    guesses += [
        Guess(name, str(getattr(decode, name)), why)
        for name in decode.__struct_fields__
        if getattr(told, name, None) in (None, ())
    ]
    return Described(decode, ("",) * candidate.num_classes, InputSpec(image_hw=(0, 0)), candidate.tensors, None, False,
                     False, tuple(guesses))  # fmt: skip


def _boxes(model: ModelProto, rows: Rows, own: object, told: ForeignDescription, known_classes: int) -> Described:
    values = np.asarray(own)
    extra = rows.channels - 4 - known_classes if known_classes else int(rows.channels == 5 + len(COCO_CLASSES))
    objectness = told.objectness if told.objectness is not None else extra == 1
    form, unit = likely_form(values, told)
    logits = told.scores == "logit" if told.scores else are_logits(values[:, 4:])
    decode = BoxesDecode(strides=_strides(model), rows=rows.count, box=form, objectness=objectness)  # type: ignore[arg-type]
    found = [("head", told.head, "boxes"), ("outputs", told.outputs, ", ".join(rows.outputs)), ("box", told.box, form),
             ("objectness", told.objectness, str(objectness).lower()), ("unit", told.unit, unit),
             ("scores", told.scores, "logit" if logits else "sigmoid")]  # fmt: skip
    guesses = tuple(Guess(what, value, "by shape and values") for what, said, value in found if said in (None, ()))
    count = max(rows.channels - 4 - objectness, 0)
    return Described(decode, ("",) * count, InputSpec(image_hw=(0, 0)), (), rows, unit == "share", logits, guesses)


def _strides(model: ModelProto) -> tuple[int, ...]:
    shapes = infer_shapes(model)
    height, width = shapes[model.graph.input[0].name][2:]
    maps, _ = head_convolutions(model, shapes, (height, width))
    return tuple(sorted({found.stride for found in maps})) or (1,)


def _run_with(model: ModelProto, tensors: list[str], image_hw: tuple[int, int], where: Path) -> Values:
    """Values of some tensors of the graph for a picture."""
    import onnx

    probe = type(model)()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    names = list(dict.fromkeys(tensors)) or [model.graph.output[0].name]
    for name in names:
        probe.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return dict(zip(names, run_graph(open_graph(probe, where), random_picture(image_hw), where), strict=True))


def _check_named(outputs: Sequence[str], shapes: Shapes, where: Path) -> None:
    for name in outputs:
        if name not in shapes:
            raise UnknownNameError("tensor of the graph", name, shapes, where=where)


def _told_maps(outputs: Sequence[str], shapes: Shapes, image_hw: tuple[int, int], where: Path) -> list[HeadMap]:
    maps = [HeadMap(name, shapes[name][1], stride_of(shapes[name], image_hw)) for name in outputs]
    for found in maps:
        if not found.stride:
            raise BackendError(
                f"output '{found.tensor}' is {list(shapes[found.tensor])}, no map (1, C, H/s, W/s)",
                where=where,
                hint="Name the tensors that the head's last convolutions give",
            )
    return maps


def _what_there_is(model: ModelProto, maps: Sequence[HeadMap], shapes: Shapes, told: ForeignDescription) -> str:
    ends = ", ".join(f"'{e.name}' {list(shapes.get(e.name, ()))}" for e in model.graph.output)
    last = ", ".join(f"'{m.tensor}' {m.channels} channels, stride {m.stride}" for m in maps[:12]) or "none"
    wanted = f"no {told.head} head" if told.head else "no head that is known"
    return f"its outputs are of {wanted}: it gives {ends}; its last convolutions over the picture are {last}"


def _names_in(model: ModelProto) -> tuple[str, ...]:
    """Class names in the file's metadata, as YOLO exporters write them: a Python dict or list."""
    text = next((entry.value for entry in model.metadata_props if entry.key == "names"), "")
    if not text or len(text) > _MOST_METADATA:
        return ()
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    values = list(found.values()) if isinstance(found, dict) else list(found) if isinstance(found, list) else []
    return tuple(values) if values and all(isinstance(name, str) for name in values) else ()


def _named(names: tuple[str, ...], count: int, where: Path) -> tuple[str, ...]:
    if not names and count == len(COCO_CLASSES):
        return COCO_CLASSES
    if len(names) != count or len(set(names)) != count:
        what = f"has {count} {'class' if count == 1 else 'classes'}, and {len(set(names)) or 'no'} different names"
        raise UsageError(what, where=where, hint="Give --names FILE, one on a line")
    return names


def _names_guess(names: tuple[str, ...], count: int) -> Guess:
    return Guess("class_names", f"{count} names", "the file's own" if names else "COCO has as many")


def _input_spec(
    told: InputDescription, decode: RawDecode | BoxesDecode, image_hw: tuple[int, int]
) -> tuple[InputSpec, list[Guess]]:
    """As told; else as the family wants it: YOLOX takes BGR from 0 to 255 from the top left, the others RGB to 1."""
    is_yolox = isinstance(decode, PointDecode) and decode.box == "centre" and decode.objectness
    likely = {
        "range": "0-255" if is_yolox else "0-1",
        "colour_order": "bgr" if is_yolox else "rgb",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "letterbox_value": 114,
        "letterbox_alignment": "top-left" if is_yolox else "center",
    }
    said = {name: getattr(told, name) for name in likely if getattr(told, name) is not None}
    chosen: dict[str, Any] = likely | said
    why = "as YOLOX has it" if is_yolox else "as most have it"
    guesses = [Guess(f"input.{name}", str(value), why) for name, value in likely.items() if name not in said]
    unit = 255.0 if chosen.pop("range") == "0-255" else 1.0
    mean, std = (tuple(value / unit for value in chosen.pop(name)) for name in ("mean", "std"))
    return InputSpec(image_hw=image_hw, mean=mean, std=std, **chosen), guesses
