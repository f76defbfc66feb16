"""How much memory a step may take that works on other people's files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from edgeyolo.spec.errors import BackendError

MOST = 4 << 30  # bytes beyond what the process has when it begins


@contextlib.contextmanager
def bounded_memory(*, where: object, most: int = MOST) -> Iterator[None]:
    """Refuse more memory than `most` bytes to all of the process for as long as the step takes; on Linux only.

    Raises:
        BackendError: Python's own part of the step needed more. Engines say in their own way that they did.
    """
    with _limited(most):
        try:
            yield
        except MemoryError:
            raise BackendError(
                f"needs more than {most >> 20} MiB of memory",
                where=where,
                hint="Do not use files you do not trust",
            ) from None


@contextlib.contextmanager
def _limited(most: int) -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + most
    limits = [wanted, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
