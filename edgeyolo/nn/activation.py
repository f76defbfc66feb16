"""The activations a model can be built with, by name."""

from __future__ import annotations

from torch import nn

from edgeyolo.spec.errors import UnknownNameError

LEAKY_SLOPE = 0.1

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
}


def list_activations() -> list[str]:
    """Names that `make_activation` knows, sorted."""
    return sorted(_ACTIVATIONS)


def make_activation(name: str | None, *, inplace: bool = False) -> nn.Module:
    """A fresh activation module; None gives the identity. `leaky_relu` has slope 0.1.

    Raises:
        UnknownNameError: no such activation.
    """
    if name is None:
        return nn.Identity()
    if name == "sigmoid":  # of attention, in a network that somebody else describes: none for all layers of a model
        return nn.Sigmoid()
    if name not in _ACTIVATIONS:
        raise UnknownNameError("activation", name, _ACTIVATIONS)
    if name == "leaky_relu":
        return nn.LeakyReLU(LEAKY_SLOPE, inplace=inplace)
    return _ACTIVATIONS[name](inplace=inplace)
