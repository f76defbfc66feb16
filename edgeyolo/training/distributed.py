"""One run on many processes, as `torchrun` starts them: gloo between CPUs, NCCL between GPUs.

    torchrun --nproc-per-node 2 -m edgeyolo train ...

Every process walks through the same order of the same pictures and takes its share of each batch, so that the numbers
are those of one process. All of them must see the data set, or a copy; only the first one reads and writes checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from edgeyolo.spec.errors import EdgeYoloError, StoppedError, TrainingError, UsageError
from edgeyolo.training.sync_batch_norm import use_sync_batch_norm

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=10)  # the first process scores and writes, while the others wait
_ROLL_CALL_SECONDS = 3.0
_LETTING_GO_SECONDS = 0.5  # microseconds suffice; a busy machine may keep a thread waiting for a hundred milliseconds
_SIGNS_OF_LOSS = ("Connection", "Timed out", "Broken pipe", "gloo", "NCCL", "Socket")  # in torch's messages


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: of this one, counted from 0.
        size: how many there are.
        local_rank: of this one on its machine.
        local_size: how many there are on it.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    @property
    def is_shared(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process; on all of them the same answer."""
        if not self.is_shared:
            return flag
        told = torch.tensor([int(flag)])
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
        return bool(told)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes."""
        if not self.is_shared:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total / self.size

    def each(self, work: Callable[[], T]) -> T:
        """What the work gives, on each process its own, once it is done on all.

        Raises:
            TrainingError: the work of another process has failed. Any error of this one's own.
        """
        if not self.is_shared:
            return work()
        value, error = _try(work)
        errors: list[Any] = [None] * self.size
        distributed.all_gather_object(errors, None if error is None else str(error))
        if error is not None:
            raise error
        for rank, text in enumerate(errors):
            if text is not None:
                raise TrainingError(f"process {rank} of {self.size} has failed: {text}", where=f"process {self.rank}")
        return cast(T, value)

    def collect(self, work: Callable[[], T]) -> list[T]:
        """What the work of each process gives, on the first one; an empty list on the others. Raises as `each`."""
        value = self.each(work)
        if not self.is_shared:
            return [value]
        found: list[Any] | None = [None] * self.size if self.is_first else None
        distributed.gather_object(value, found)
        return found or []

    def by_first(self, work: Callable[[], T]) -> T:
        """What the work of the first process gives, on all of them; what it raises is raised by all."""
        if not self.is_shared:
            return work()
        told: list[Any] = [*_try(work)] if self.is_first else [None, None]
        distributed.broadcast_object_list(told)
        value, error = told
        if error is not None:
            raise error
        return cast(T, value)

    def copy_from_first(self, tensors: Iterator[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.is_shared:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)


def find_world() -> World:
    """As `torchrun` says in the environment; alone without it.

    Raises:
        UsageError: the environment is not one that `torchrun` makes.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return World()
    try:
        rank, size, local_rank, local_size = (int(os.environ[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"the environment lacks {error}", where="distributed run", hint="Start with torchrun"
        ) from None
    return World(rank, size, local_rank, local_size)


def current_world() -> World:
    """The processes that this one has joined; alone where there are none."""
    return find_world() if distributed.is_available() and distributed.is_initialized() else World()


@contextlib.contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Meet the other processes, and part from them when the block ends well.

    A thread of gloo lets go of the last tensors a moment after the exchange is over, and needs the interpreter's lock
    for that. If the interpreter ends first, Python ends the thread instead, and that aborts the process. So this
    waits a moment, without the lock.
    """
    if not world.is_shared or distributed.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield
    finally:
        time.sleep(_LETTING_GO_SECONDS)
    distributed.destroy_process_group()


def own_device(name: str, world: World) -> str:
    """The device of this process: of a machine's GPUs, each process takes the one of its number."""
    if world.is_shared and (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
        return f"cuda:{world.local_rank}"
    return name


def synchronise(model: nn.Module, world: World, device: torch.device, *, batch_norm: bool) -> None:
    """Let batch normalisation go by the pictures of all processes, if there are others; edits the model in place."""
    if not (world.is_shared and batch_norm):
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    else:
        use_sync_batch_norm(model)


def shared(model: nn.Module, world: World, device: torch.device) -> nn.Module:
    """The model, whose gradients become the mean over all processes, if there are others."""
    if not world.is_shared:
        return model
    ids = [device.index] if device.type == "cuda" else None
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")  # of 1 x 1 kernels: no matter
    return DistributedDataParallel(model, device_ids=ids)


@contextlib.contextmanager
def noticing_loss(world: World, last: Path | None = None) -> Iterator[None]:
    """Say which process is lost when one ends or does not answer.

    Args:
        last: checkpoint that can be resumed, once it is there; None for work that has none.

    Raises:
        StoppedError: one is lost.
    """
    try:
        yield
    except RuntimeError as error:
        is_loss = isinstance(error, distributed.DistError) or any(sign in str(error) for sign in _SIGNS_OF_LOSS)
        if not world.is_shared or not is_loss:
            raise
        missing = _missing_ranks(world)
        which = f"process {', '.join(map(str, missing))}" if missing else "one of the others"
        reached = "start again" if last is None else "no epoch was finished; start again"
        if last is not None and last.is_file():
            reached = f"go on with --resume from {last}"
        raise StoppedError(
            f"{which} of {world.size} has ended or does not answer ({str(error).splitlines()[0]})",
            where=f"process {world.rank}",
            hint=f"Its own output says why; {reached}",
        ) from error


def _missing_ranks(world: World) -> list[int]:
    """Ranks that do not answer a roll call within a few seconds; empty where none can be held."""
    try:
        store = distributed.distributed_c10d._get_default_store()
        store.set(f"edgeyolo/alive/{world.rank}", "yes")
        others = [rank for rank in range(world.size) if rank != world.rank]
        deadline = time.monotonic() + _ROLL_CALL_SECONDS
        while others and time.monotonic() < deadline:
            time.sleep(0.1)
            others = [rank for rank in others if not store.check([f"edgeyolo/alive/{rank}"])]
    except (RuntimeError, ValueError):  # the store went with the process that kept it
        return []
    return others


def _try(work: Callable[[], T]) -> tuple[T | None, EdgeYoloError | None]:
    """What it gives, or the error that it raises."""
    try:
        return work(), None
    except EdgeYoloError as error:
        return None, error
