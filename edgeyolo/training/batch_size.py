"""How many pictures fit into memory, measured by a real step at two small batches and drawn out from there."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeyolo.criteria.criterion import alone
from edgeyolo.spec.errors import UsageError
from edgeyolo.training.distributed import World
from edgeyolo.training.heap import address_limit, give_back_freed
from edgeyolo.training.job import Job

_LOG = logging.getLogger(__name__)

LARGEST = 64
_STEPS_PER_EPOCH = 16  # fewer teach a small data set badly
_SHARE = 0.8  # of the free memory; the rest is for the loader and what measuring does not see
_OBJECTS = 20  # on each picture of the trial
_BACKWARD = 1.25  # what a step needs at least of what it saves: gradients come beside the maps they are of
_STATES = 4  # copies of the weights beside the model: gradients, two of AdamW, average
_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the processor or the GPU has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def find_batch(job: Job, count: int, world: World) -> int:
    """Pictures of a step over all processes: a power of two each, as memory allows, and few enough for many steps.

    Args:
        count: pictures of the data set; an epoch has at least sixteen steps, where that leaves one picture for each.

    Raises:
        UsageError: not one picture fits.
    """
    fitting = world.by_first(lambda: largest_fitting(job, job.model))
    if fitting < 1:
        raise UsageError(
            "not even one picture fits into memory", where="batch auto", hint="Take a smaller model or image_size"
        )
    wanted = min(fitting, LARGEST, max(1, count // (_STEPS_PER_EPOCH * world.size)))
    batch = world.size * (1 << (wanted.bit_length() - 1))
    _LOG.warning("batch %d: %d pictures would fit, %d are in the data set", batch, fitting * world.size, count)
    return batch


def largest_fitting(job: Job, model: nn.Module, *, states: int = _STATES) -> int:
    """The largest batch of a process whose step fits into the memory that is free now; 0 if none does.

    Args:
        model: the job's, or a copy of it; not changed, in any mode.
        states: copies of its weights that training will still need.
    """
    trial = copy.deepcopy(model).requires_grad_(True).train(job.trains_statistics)
    network, device = job.trained_network(trial), job.device
    free = _SHARE * free_bytes(device) - states * sum(p.numel() * p.element_size() for p in trial.parameters())
    try:
        with alone():
            small, large = (_measure_step(job, network, batch) for batch in (2, 6))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return 0
    per_picture = max((large.peak - small.peak) / 4, _BACKWARD * (large.saved - small.saved) / 4)
    fixed = max(0.0, small.peak - 2 * per_picture)
    return max(0, int((free - fixed) // per_picture))


@dataclass(frozen=True)
class _Need:
    """What a step needs, bytes.

    Attributes:
        peak: at its worst, beyond what was in use before it; on a CPU less where freed memory was used again.
        saved: kept from the forward for the backward pass; no step needs less.
    """

    peak: float
    saved: float


def _measure_step(job: Job, network: nn.Module, batch: int) -> _Need:
    """Take a step on a batch of noise."""
    device = job.device
    height, width = job.spec.input.image_hw
    before = _reset_peak(device)
    images = torch.rand(batch, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    corner = torch.rand(batch * _OBJECTS, 2) * 0.6
    boxes = torch.cat([corner, corner + 0.05 + 0.3 * torch.rand_like(corner)], dim=1)
    targets = torch.zeros(batch * _OBJECTS, 6)
    targets[:, 0] = torch.arange(batch).repeat_interleave(_OBJECTS)
    targets[:, 2:] = boxes * torch.tensor([width, height, width, height])
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        with job.autocast():
            outputs = network(images)
        loss = job.loss([output.float() for output in outputs], targets.to(device), images)
    torch.autograd.backward(loss.total)
    network.zero_grad(set_to_none=True)
    return _Need(max(0.0, _peak(device) - before), float(sum(saved.values())))


def free_bytes(device: torch.device) -> float:
    """Memory that this process can still have, bytes: of the GPU, or of the machine, its container and its limits."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + unused)
    give_back_freed()
    limits = [_kib("/proc/meminfo", "MemAvailable"), _container_bytes(), _address_bytes()]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else 2.0**32  # no way to know: a small machine


def _container_bytes() -> float | None:
    """What the control group leaves."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if limit == "max" else float(limit) - float(used)


def _address_bytes() -> float | None:
    """What `ulimit -v` leaves."""
    limit, used = address_limit(), _kib("/proc/self/status", "VmSize")
    return None if limit is None or used is None else limit - used


def _reset_peak(device: torch.device) -> float:
    """Start to watch for a new peak; returns what is in use now, bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    give_back_freed()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0.0  # the peak since the start: what is measured is too large, never too small
    return _kib("/proc/self/status", "VmRSS") or 0.0


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return _kib("/proc/self/status", "VmHWM") or 0.0


def _kib(file: str, key: str) -> float | None:
    """A line such as `VmRSS:  1234 kB` of a file of the kernel, in bytes."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)
