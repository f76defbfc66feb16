"""What can be tried on a device to run an ncnn network faster: threads, engine options, and layers out of int8.

Winograd F(4,3) is never offered to int8, whose sums it may overflow (see `ncnn._precision_options`).

Source: github.com/Tencent/ncnn, src/option.h.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from edgeyolo.backends.ncnn.files import Layer
from edgeyolo.backends.ncnn.mixed import group_int8_layers, int8_layer_names
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.target import Option
from edgeyolo.spec.tuning import Choice

_BLOCKS = (1, 2, 4, 8)  # parts that the int8 layers are divided into, to be tried in float
_HALF_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
_BF16: dict[str, Option] = {**dict.fromkeys(_HALF_OPTIONS, False), "use_bf16_storage": True}


def list_choices(engine: Any, artefact: Artefact, layers: Sequence[Layer]) -> list[Choice]:
    """Threads first, since everything else depends on them; then options; then which layers leave int8.

    Layers go by what decides whether int8 pays, their kernel, with bfloat16 tensors too; then by their place.

    Args:
        engine: the ncnn package.
        layers: of the network; weights are not needed.
    """
    groups = group_int8_layers(layers)
    options = [Choice(_in_words(o), tuple(o.items())) for o in _option_sets(engine, artefact, bool(groups))]
    kinds = [
        Choice(f"{kind} in float{how}", change, float_layers=tuple(names))
        for how, change in (("", ()), (" with bfloat16 tensors", tuple(_BF16.items())))
        for kind, names in groups.items()
    ]
    return [*_thread_choices(engine), *options, *kinds, *map(_layer_choice, _list_parts(int8_layer_names(layers)))]


def _thread_choices(engine: Any) -> list[Choice]:
    counts = (engine.get_physical_big_cpu_count(), engine.get_big_cpu_count(), engine.get_cpu_count(), 2, 1)
    limit = engine.get_cpu_count()
    kinds = []
    if 0 < engine.get_big_cpu_count() < limit:
        kinds = [Choice("big cores only", (("cpu_powersave", 2),), threads=engine.get_big_cpu_count())]
    return kinds + [Choice(f"{n} threads", threads=n) for n in dict.fromkeys(counts) if 0 < n <= limit]


def _option_sets(engine: Any, artefact: Artefact, is_int8: bool) -> list[dict[str, Option]]:
    """Options that change together, against what the artefact was deployed with or the engine's default."""
    half: dict[str, Option] = {"use_fp16_arithmetic": bool(engine.cpu_support_arm_asimdhp())}
    storage: list[dict[str, Option]] = [
        _BF16,
        dict.fromkeys(_HALF_OPTIONS[:2], True) | half | {"use_bf16_storage": False},
        _BF16 | {"use_bf16_storage": False},
    ]
    winograd: list[dict[str, Option]] = [
        {name: not _current(engine, artefact, name)}
        for name in ("use_winograd_convolution", "use_winograd23_convolution", "use_winograd63_convolution")
    ]
    if not is_int8:
        winograd.append({"use_winograd43_convolution": not _current(engine, artefact, "use_winograd43_convolution")})
    others: list[dict[str, Option]] = [
        {name: not _current(engine, artefact, name)} for name in ("use_sgemm_convolution", "use_packing_layout")
    ]
    return [*winograd, *storage, *others]


def _current(engine: Any, artefact: Artefact, name: str) -> bool:
    return bool(artefact.options.get(name, getattr(engine.Option(), name)))


def _in_words(options: Mapping[str, Option]) -> str:
    return ", ".join(f"{name} = {str(value).lower()}" for name, value in options.items())


def _list_parts(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The names as one part, halves, quarters, eighths, each in order; no part twice."""
    parts: dict[tuple[str, ...], None] = {}
    for blocks in _BLOCKS:
        edges = [round(i * len(names) / blocks) for i in range(blocks + 1)]
        parts |= {tuple(names[start:stop]): None for start, stop in itertools.pairwise(edges) if stop > start}
    return list(parts)


def _layer_choice(names: tuple[str, ...]) -> Choice:
    span = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
    return Choice(f"{len(names)} layer{'s' * (len(names) > 1)} in float: {span}", float_layers=names)
