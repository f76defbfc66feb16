"""A whole trained model -> its deploy form: plain convolutions with bias, activations, pooling, concatenation."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def fold_model(model: M) -> M:
    """A folded copy in eval mode, as `fold_in_place` makes it; `model` is left as it is."""
    return fold_in_place(copy.deepcopy(model))


def fold_in_place(model: M) -> M:
    """Turn a model into its deploy form, in eval mode.

    A block with a `fold()` method is replaced by what that returns, and is not looked into; None means that the block
    has no part in the deploy form. Any other module is kept and its children are folded. The class, config and methods
    of the model itself stay, and so do the module paths of what is left.
    """
    _fold_children(model.eval())
    return model


def _fold_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        fold = getattr(child, "fold", None)
        if callable(fold):
            replacement = fold()
            setattr(module, name, None if replacement is None else replacement.eval())
        else:
            _fold_children(child)
