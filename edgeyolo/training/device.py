"""Which processor computes, how many pictures at a time, how exactly, and how weights lie in its memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from edgeyolo.spec.errors import UsageError

_CPU_BATCH, _GPU_BATCH = 4, 16


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        UsageError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device '{name}' cannot be used ({str(error).splitlines()[0]})", hint="Try auto or cpu"
        ) from None
    return device


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type that autocast uses for convolutions, None for plain float32.

    Raises:
        UsageError: half precision where there is no GPU.
    """
    if precision == "fp16":
        if device.type != "cuda":
            raise UsageError(
                f"precision fp16 needs a GPU, and the device is {device}", hint="Take auto, bf16 or fp32 here"
            )
        return torch.float16
    if precision == "bf16" or (precision == "auto" and _has_fast_bf16(device)):
        return torch.bfloat16
    return None


def batch_of(device: torch.device) -> int:
    """How many pictures at a time are fastest, where memory for a few is nothing to think of."""
    return _CPU_BATCH if device.type == "cpu" else _GPU_BATCH


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions in float32 on a GPU too, which otherwise rounds what goes into them to 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def use_channels_last(module: nn.Module) -> None:
    """Lay out every four-dimensional parameter with channels last, in place, as convolutions like it best."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
