"""What the C library does with freed memory: glibc can be told, others are left as they are."""

from __future__ import annotations

import contextlib
import ctypes
import sys

import torch

_GLIBC = "libc.so.6"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory(device: torch.device) -> None:
    """Where a processor computes, let this process keep what it frees for what it needs next.

    Steps of training need the same blocks again and again, and glibc gives large ones back to the system each time,
    which has to clear them anew: a twentieth to a quarter of a step's time. Other C libraries are left as they are, and
    so is a process whose addresses `ulimit -v` limits: those that its heap keeps could be mapped for nothing else.
    """
    if device.type != "cpu" or address_limit() is not None:
        return
    with contextlib.suppress(OSError, AttributeError):  # only glibc can
        library = ctypes.CDLL(_GLIBC)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)


def give_back_freed() -> None:
    """Let the C library return memory that it keeps for later, which would hide what a step needs."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc can
        ctypes.CDLL(_GLIBC).malloc_trim(0)


def address_limit() -> int | None:
    """Bytes of addresses that `ulimit -v` gives this process; None for no limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit
