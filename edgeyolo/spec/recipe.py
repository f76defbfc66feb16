"""How to calibrate, as data: `calib/<name>.toml`."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeyolo.spec.shelf import list_shelf, load_from_shelf


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Calibration of activations and weights.

    Attributes:
        title: for people.
        observer: how an activation range is chosen.
        bins: histogram bins, for observers that need one.
        count: training pictures to calibrate on; fewer are used, with a warning, where there are fewer.
        seed: of the choice of pictures.
        weight_observer: how a weight range is chosen, per output channel.
        weight_bits: 8, or 6 for engines whose 3x3 kernels overflow at 8.
        float_layers: module paths kept float, `*` matches any part; each must match something.
    """

    title: str
    observer: Literal["max", "mse"] = "mse"
    bins: int = 2048
    count: int = 256
    seed: int = 0
    weight_observer: Literal["max"] = "max"
    weight_bits: int = 8
    float_layers: tuple[str, ...] = ()


def list_recipes() -> list[str]:
    """Names of the recipes known."""
    return list_shelf("calib")


def load_recipe(name: str) -> Recipe:
    """Read a recipe by name, or from a path ending in `.toml`.

    Raises:
        UnknownNameError: no such recipe. FormatError: its file is not valid.
    """
    return load_from_shelf("calib", "recipe", name, Recipe)
