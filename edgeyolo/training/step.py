"""One step of training: forward, loss, backward, optimizer, average."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgeyolo.criteria.criterion import Loss
from edgeyolo.geometry.network_input import scaling_of
from edgeyolo.spec.model import InputSpec
from edgeyolo.training.batch_size import is_out_of_memory
from edgeyolo.training.faults import (
    is_compiler_error,
    no_compiler_error,
    no_memory_error,
    no_number_error,
    too_few_values_error,
)
from edgeyolo.training.loader import Batch
from edgeyolo.training.run import Run


def train_step(run: Run, batch: Batch) -> dict[str, Tensor]:
    """Forward, loss, backward, optimizer, average; returns the loss parts and their `total`.

    Raises:
        TrainingError: the loss or a gradient is not a finite number, or memory runs out; no weight has been changed by
            this batch then. UsageError: batch and image_size are too small to train, or the model cannot be compiled.
    """
    try:
        return _step(run, batch)
    except (RuntimeError, MemoryError) as error:
        if run.config.compile and is_compiler_error(error):
            raise no_compiler_error(error) from error
        if not is_out_of_memory(error):
            raise
        reason = error.with_traceback(None)  # its frames hold on to what fills the memory
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise too_few_values_error(run, batch.images) from None
    raise no_memory_error(run, len(batch.images), reason) from None


def _step(run: Run, batch: Batch) -> dict[str, Tensor]:
    images = batch.images.to(run.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    targets = batch.targets.to(run.device, non_blocking=True)
    images = normalise(images, run.spec.input)
    run.optimizer.zero_grad(set_to_none=True)
    loss = backward(run, images, targets)
    run.scaler.unscale_(run.optimizer)
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    healthy = torch.isfinite(loss.total) if run.scaler.is_enabled() else torch.isfinite(loss.total + norm)
    if not healthy:
        raise no_number_error(run, images, batch.image_ids, loss.total.detach(), norm)
    torch._foreach_mul_(gradients, (run.config.clip_norm / (norm + 1e-6)).clamp(max=1.0))
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.ema.step(run.model)
    return {**loss.parts, "total": loss.total.detach()}


def backward(run: Run, images: Tensor, targets: Tensor) -> Loss:
    """Add the gradient of a batch's loss to the model's.

    The gradient goes from the loss to the maps, and from there through the network. With `accumulate` the network is
    walked through part by part, which needs the maps of all parts first: the loss of a picture depends on how many
    objects the others have.
    """
    parts = images.chunk(run.config.accumulate) if len(images) else (images,)
    if len(parts) == 1:
        maps = _maps(run, run.forward, images)
        loss, gradients = _loss_and_map_gradients(run, maps, targets, images)
        _walk_back(maps, gradients)
        return loss
    with torch.no_grad(), _statistics_kept(run.model):
        pieces = [_maps(run, run.model, part) for part in parts]
    maps = [torch.cat(level) for level in zip(*pieces, strict=True)]
    del pieces
    loss, gradients = _loss_and_map_gradients(run, maps, targets, images)
    first = 0
    for part in parts:
        last = first + len(part)
        with _unshared(run.forward, first + len(part) < len(images)):
            _walk_back(_maps(run, run.forward, part), [g[first:last] for g in gradients])
        first = last
    return loss


def _maps(run: Run, network: nn.Module, images: Tensor) -> list[Tensor]:
    """The raw maps, and after them the features that a teacher asks about."""
    with contextlib.ExitStack() as stack:
        features = stack.enter_context(run.distiller.watch()) if run.distiller is not None else []
        stack.enter_context(_autocast(run))
        maps: list[Tensor] = network(images)
    return [*maps, *features]


def _autocast(run: Run) -> torch.autocast:
    return torch.autocast(run.device.type, dtype=run.autocast, enabled=run.autocast is not None)


def _loss_and_map_gradients(
    run: Run, maps: Sequence[Tensor], targets: Tensor, images: Tensor
) -> tuple[Loss, list[Tensor]]:
    """The loss, and its gradient by each map in the map's own type; zero where the loss does not depend on it."""
    leaves = [map_.detach().float().requires_grad_() for map_ in maps]
    count = len(leaves) - (run.distiller.feature_count if run.distiller is not None else 0)
    loss = run.criterion(leaves[:count], targets, (images.shape[2], images.shape[3]))
    if run.teach is not None:
        with _autocast(run):
            taught = run.teach(leaves[count:], leaves[:count], images)
        loss = Loss(loss.total + taught.total, loss.parts | taught.parts)
    if loss.total.requires_grad:
        run.scaler.scale(loss.total).backward()
    gradients = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]
    return loss, [gradient.to(map_.dtype) for gradient, map_ in zip(gradients, maps, strict=True)]


def _walk_back(maps: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Through the network from its maps, but for those that nothing trained has made."""
    pairs = [pair for pair in zip(maps, gradients, strict=True) if pair[0].requires_grad]
    torch.autograd.backward([map_ for map_, _ in pairs], [gradient for _, gradient in pairs])


@contextlib.contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch, which is not remembered."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextlib.contextmanager
def _unshared(forward: nn.Module, alone: bool) -> Iterator[None]:
    """Gradients stay on this process, to be shared with those of the last part."""
    if alone and isinstance(forward, DistributedDataParallel):
        with forward.no_sync():
            yield
    else:
        yield


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 as the network takes it, to the bit as on the board."""
    factor, offset = (torch.from_numpy(values).to(images.device).view(1, 3, 1, 1) for values in scaling_of(spec))
    return images.float() * factor - offset
