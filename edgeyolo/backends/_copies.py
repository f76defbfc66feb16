"""A network loaded for more than one number of threads: engines bind that number when they load it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from edgeyolo.spec.errors import BackendError

T = TypeVar("T")


class ThreadCopies(Generic[T]):
    """The network for the number of threads in use, and the one before, so that going back costs nothing.

    Args:
        load: loads the network for a number of threads.
        threads: to begin with.
        files: what `load` reads; a later load of changed files is refused.

    Attributes:
        current: the network in use, None once closed.
        threads: the number that it was loaded for.
    """

    def __init__(self, load: Callable[[int], T], threads: int, files: Sequence[Path]) -> None:
        self._load, self._files = load, files
        self._stamps = self._list_stamps()
        self.current: T | None = load(threads)
        self.threads = threads
        self._loaded: dict[int, T | None] = {threads: self.current}

    def use(self, threads: int) -> None:
        """Take another number of threads, from the next run on; what is running is not disturbed.

        Raises:
            BackendError: the files have changed since.
        """
        if threads not in self._loaded:
            if self._list_stamps() != self._stamps:
                raise BackendError(
                    "has changed since it was opened", where=self._files[0], hint="Load the bundle again"
                )
            self._loaded = {self.threads: self.current, threads: self._load(threads)}
        if self.current is not None:
            self.current, self.threads = self._loaded[threads], threads

    def close(self) -> None:
        """Let go of every network."""
        self.current, self._loaded = None, {}

    def _list_stamps(self) -> list[tuple[int, int, int]]:
        found = [path.stat() for path in self._files if path.exists()]
        return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in found]


class CopiesSession(Generic[T]):
    """What sessions on `ThreadCopies` have in common: the number of threads, and the end."""

    def __init__(self, copies: ThreadCopies[T]) -> None:
        self._copies = copies

    @property
    def threads(self) -> int:
        """Threads that it computes with."""
        return self._copies.threads

    def use_threads(self, count: int) -> None:
        """See `CpuSession.use_threads`."""
        self._copies.use(count)

    def close(self) -> None:
        """Give the engine's memory back."""
        self._copies.close()

    def _opened(self) -> T:
        """The network in use.

        Raises:
            BackendError: the session is closed.
        """
        if self._copies.current is None:
            raise BackendError("the session is closed", hint="Open the artefact again")
        return self._copies.current
