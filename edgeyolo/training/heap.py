"""What the C library does with freed memory: glibc can be told, others are left as they are."""

from __future__ import annotations

import contextlib
import ctypes

import torch

_GLIBC = "libc.so.6"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory(device: torch.device) -> None:
    """Where a processor computes, let this process keep what it frees for what it needs next.

    Steps of training need the same blocks again and again, and glibc gives large ones back to the system each time,
    which has to clear them anew: a twentieth to a quarter of a step's time. Other C libraries are left as they are.
    """
    if device.type != "cpu":
        return
    with contextlib.suppress(OSError, AttributeError):  # only glibc can
        library = ctypes.CDLL(_GLIBC)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)


def give_back_freed() -> None:
    """Let the C library return memory that it keeps for later, which would hide what a step needs."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc can
        ctypes.CDLL(_GLIBC).malloc_trim(0)


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def kept_bytes() -> float:
    """Addresses that were freed and that glibc keeps for this process; 0 where it does not say."""
    try:
        ask = ctypes.CDLL(_GLIBC).mallinfo2
    except (OSError, AttributeError):
        return 0.0
    ask.restype = _MallInfo
    return float(ask().fordblks)
