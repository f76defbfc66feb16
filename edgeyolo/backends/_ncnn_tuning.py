"""What can be tried on a device to run an ncnn network faster: threads, engine options, and layers out of int8.

Winograd F(4,3) is never offered to int8, whose sums it may overflow (see `ncnn._precision_options`).

Source: github.com/Tencent/ncnn, src/option.h.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.target import Option
from edgeyolo.spec.tuning import Choice

_BLOCKS = (1, 2, 4, 8)  # parts that the int8 layers are divided into, to be tried in float
_HALF_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")


def list_choices(engine: Any, artefact: Artefact, int8_layers: Sequence[str]) -> list[Choice]:
    """Threads first, since everything else depends on them, then options, then layers from large parts to small.

    Args:
        engine: the ncnn package.
        int8_layers: their names, in the network's order.
    """
    is_int8 = bool(int8_layers)
    return [
        *_thread_choices(engine),
        *(Choice(_in_words(options), tuple(options.items())) for options in _option_sets(engine, artefact, is_int8)),
        *(_layer_choice(part) for part in _list_parts(int8_layers)),
    ]


def _thread_choices(engine: Any) -> list[Choice]:
    counts = (engine.get_physical_big_cpu_count(), engine.get_big_cpu_count(), engine.get_cpu_count(), 2, 1)
    limit = engine.get_cpu_count()
    kinds = []
    if 0 < engine.get_big_cpu_count() < limit:
        kinds = [Choice("big cores only", (("cpu_powersave", 2),), threads=engine.get_big_cpu_count())]
    return kinds + [Choice(f"{n} threads", threads=n) for n in dict.fromkeys(counts) if 0 < n <= limit]


def _option_sets(engine: Any, artefact: Artefact, is_int8: bool) -> list[dict[str, Option]]:
    """Options that change together, against what the artefact was deployed with or the engine's default."""
    no_half: dict[str, Option] = dict.fromkeys(_HALF_OPTIONS, False)
    half: dict[str, Option] = {"use_fp16_arithmetic": bool(engine.cpu_support_arm_asimdhp())}
    storage: list[dict[str, Option]] = [
        no_half | {"use_bf16_storage": True},
        dict.fromkeys(_HALF_OPTIONS[:2], True) | half | {"use_bf16_storage": False},
        no_half | {"use_bf16_storage": False},
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
    return [*storage, *winograd, *others]


def _current(engine: Any, artefact: Artefact, name: str) -> bool:
    return bool(artefact.options.get(name, getattr(engine.Option(), name)))


def _in_words(options: dict[str, Option]) -> str:
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
