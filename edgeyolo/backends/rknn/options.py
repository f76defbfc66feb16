"""Which Rockchip chip a bundle is for and which of its NPU cores run it: the engine options of a target, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from edgeyolo.backends._artefact import check_option_names
from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.target import Option

# Chips that the toolkit compiles for and that run Python, with those that run what is compiled for them.
CHIPS = {
    "rk3562": ("rk3562",),
    "rk3566": ("rk3566", "rk3568"),
    "rk3568": ("rk3566", "rk3568"),
    "rk3576": ("rk3576",),
    "rk3588": ("rk3588",),
    "rv1126b": ("rv1126b",),
}
# As RKNNLite.init_runtime takes them.
CORE_MASKS = {"auto": 0, "0": 1, "1": 2, "2": 4, "0_1": 3, "0_1_2": 7, "all": 0xFFFF}


@dataclass(frozen=True)
class Options:
    """What to compile for, and where to run.

    Attributes:
        chip: as the toolkit calls it, such as "rk3588".
        cores: NPU cores of an RK3588 (three) or RK3576 (two): one that is free ("auto"), one, several together, "all".
        single_core: leave out what several cores together need, which makes the file smaller (RK3588).
    """

    chip: str = ""
    cores: str = "auto"
    single_core: bool = False

    def config(self) -> dict[str, object]:
        """For `RKNN.config`."""
        single = {"single_core_mode": True} if self.single_core else {}
        return {"target_platform": self.chip, **single}


def make_options(values: Mapping[str, Option]) -> Options:
    """Options from a target or a manifest.

    Raises:
        UnknownNameError: an option, chip or set of cores that does not exist. UsageError: a value of another type, or
            cores together that the file leaves out.
    """
    fields = {field.name: field for field in dataclasses.fields(Options)}
    check_option_names(values, list(fields), engine="rknn")
    for name, value in values.items():
        if type(value) is not type(fields[name].default):
            raise UsageError(f"rknn option {name} is {value!r}", hint=f"Give a {type(fields[name].default).__name__}")
    options = dataclasses.replace(Options(), **values)  # type: ignore[arg-type]
    if options.chip not in CHIPS:
        raise UnknownNameError("Rockchip chip", options.chip, CHIPS)
    if options.cores not in CORE_MASKS:
        raise UnknownNameError("choice of NPU cores", options.cores, CORE_MASKS)
    if options.single_core and options.cores in ("0_1", "0_1_2", "all"):
        raise UsageError(f'single_core leaves out what cores = "{options.cores}" needs', hint="Set one of the two")
    return options
