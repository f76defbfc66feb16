"""A device beside the CPU, acted by it: tensors that were sent there refuse to meet others, as those on a GPU do.

Inside `OtherDevice()` the name `cuda` stands for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

DEVICE = torch.device("cuda")
_MEETINGS = (Tensor.copy_, Tensor.to, Tensor.cpu, torch._has_compatible_shallow_copy_type)


class There(Tensor):
    """A tensor on the other device."""


class OtherDevice(TorchFunctionMode):
    """Acts the device within a `with` block.

    Attributes:
        convolutions: how many batches of each size went through a convolution there.
        here: the same on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: Counter[int] = Counter()
        self.here: Counter[int] = Counter()

    def __enter__(self) -> OtherDevice:
        self._overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # or parameters would not be of our class
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *reason: Any) -> None:
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwrites)
        super().__exit__(*reason)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        away = any(isinstance(tensor, There) for tensor in tensors)
        if getattr(func, "__name__", "") == "__get__" and getattr(func, "__self__", None) is Tensor.device:
            return DEVICE if away else func(*args, **kwargs)
        target = _target(func, args, kwargs)
        if func in (torch.nn.functional.conv2d, torch.conv2d) and not torch.jit.is_tracing():
            (self.convolutions if away else self.here)[len(tensors[0])] += 1
        if away and func is Tensor.numpy:
            raise TypeError("a tensor of the other device has no array")
        if away and func not in _MEETINGS and any(not isinstance(t, There) and t.dim() for t in tensors):
            raise RuntimeError(f"{func.__name__}: tensors of two devices")
        if not away and target is None:
            return func(*args, **kwargs)
        args, kwargs = pytree.tree_map_only(There, _here, (args, kwargs))
        if target is not None:
            kinds = (torch.device, str)
            args, kwargs = pytree.tree_map_only(
                kinds, lambda it: "cpu" if str(it)[:4] == "cuda" else it, (args, kwargs)
            )
        goes = target.type == DEVICE.type if target is not None else func is not Tensor.cpu
        found = func(*args, **kwargs)
        if not goes:
            return found
        found = pytree.tree_map_only(Tensor, lambda t: Tensor._make_subclass(There, t, t.requires_grad), found)
        if func is Tensor.__deepcopy__ and isinstance(tensors[0], torch.nn.Parameter):
            found._is_param = True
        return found


def _here(tensor: There) -> Tensor:
    return Tensor._make_subclass(Tensor, tensor, tensor.requires_grad)


def _named_here(value: Any) -> Any:
    return "cpu" if str(value).startswith("cuda") else value


def _target(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """The device that a call names."""
    named = [kwargs.get("device"), *(args[1:] if func is Tensor.to else ())]
    for value in named:
        if isinstance(value, torch.device):
            return value
        if isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda"):
            return torch.device(value)
    return None
