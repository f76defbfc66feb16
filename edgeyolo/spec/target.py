"""A board as data: `targets/<name>.toml`."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeyolo.spec.model import PixelType
from edgeyolo.spec.settings import Count
from edgeyolo.spec.shelf import list_shelf, load_from_shelf

Precision = Literal["mixed", "int8", "fp8", "fp16", "bf16", "fp32"]
Option = bool | int | float | str


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a board can run and how its engine is set up.

    Attributes:
        aliases: other names that `load_target` knows it by.
        title: for people, such as "Raspberry Pi 5 (4 x Cortex-A76)".
        engine: name of a module in `edgeyolo.backends`.
        program: name of a module in `edgeyolo.handoffs`: another program than ours that reads the model, and runs it by
            that engine; "" where our own runtime does.
        engine_versions: accepted versions, PEP 440 specifier such as ">=1.0.20261020".
        precisions: allowed, preferred first.
        machine: architecture as `platform.machine()` gives it there, "" for any.
        cpu_features: as Linux names them, such as "asimddp"; decides what the int8 writer may rely on.
        core: processor core whose costs decide which layers a mixed artefact runs in int8, as the engine names it.
        threads: engine threads, 0 for the engine's own default.
        memory_mib: memory of the board, 0 where it depends.
        gpu_compute_capability: such as "8.7", "" without a GPU.
        dla_cores: number of DLA cores.
        postprocess: where boxes are decoded: on the host, or inside the graph.
        input: what the graph takes: floats, or the bytes of the picture, whose channels it orders and scales itself.
        frame_hw: height and width of the camera's pictures, where the graph is to letterbox them as well; input is then
            "uint8".
        engine_options: passed to the engine, recorded in the manifest, used again by the runtime.
        first_of: for a target that is this very computer: targets to take in its place, by the architecture, fastest
            first; the first whose engine is installed is taken.
        sources: for each number, where it is from.
    """

    title: str
    engine: str
    program: str = ""
    aliases: tuple[str, ...] = ()
    precisions: tuple[Precision, ...]
    engine_versions: str = ""
    machine: str = ""
    cpu_features: tuple[str, ...] = ()
    core: str = ""
    threads: int = 0
    memory_mib: int = 0
    gpu_compute_capability: str = ""
    dla_cores: int = 0
    postprocess: Literal["host", "graph"] = "host"
    input: PixelType = "float32"
    frame_hw: tuple[Count, Count] | None = None
    engine_options: dict[str, Option] = {}
    first_of: dict[str, tuple[str, ...]] = {}
    sources: dict[str, str] = {}


def needs_scales(precision: str) -> bool:
    """Whether an artefact of this precision has layers in 8 bits, and so needs qparams."""
    return precision in ("mixed", "int8", "fp8")


def list_targets() -> list[str]:
    """Names of the boards known."""
    return list_shelf("targets")


def load_target(name: str) -> Target:
    """Read a target by its name or an alias, or from a path ending in `.toml`.

    Raises:
        UnknownNameError: no such target. FormatError: its file is not valid.
    """
    return load_from_shelf("targets", "target", target_name(name), Target)


def target_name(name: str) -> str:
    """The name of the target that `name` is an alias of; `name` itself where it is none."""
    if name.endswith(".toml") or name in list_targets():
        return name
    for known in list_targets():
        if name in load_from_shelf("targets", "target", known, Target).aliases:
            return known
    return name
