"""The gradient of a whole batch with the memory of a part of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgeyolo.criteria.criterion import Loss
from edgeyolo.training.cross_batch_norm import start_batch
from edgeyolo.training.run import Run


def backward_in_parts(run: Run, images: Tensor, targets: Tensor) -> Loss:
    """Add the gradient of a batch's loss to the model's, walking through the network `accumulate` times.

    The loss of a picture depends on how many objects the others have, so it needs the outputs of all parts: they are
    computed first, without what a backward pass needs. Then each part is computed again, with the same random numbers,
    and walked back through.
    Every process of a distributed run takes the same number of parts, empty ones among them.
    """
    count = run.config.accumulate if run.world.is_shared else min(run.config.accumulate, len(images))
    parts = images.tensor_split(count)
    devices = [run.device] if run.device.type == "cuda" else []
    start_batch(run.model)
    with torch.no_grad(), statistics_kept(run.model), run.job.autocast(), torch.random.fork_rng(devices):
        pieces = [run.network(part) for part in parts]
    outputs = [torch.cat(level) for level in zip(*pieces, strict=True)]
    del pieces
    loss, gradients = _loss_and_gradients(run, outputs, targets, images)
    split = [gradient.tensor_split(count) for gradient in gradients]
    start_batch(run.model)
    for index, part in enumerate(parts):
        with _unshared(run.forward, index + 1 < count):
            with run.job.autocast():
                again: list[Tensor] = run.forward(part)
            _walk_back(again, [level[index] for level in split])
    start_batch(run.model)
    return loss


def _loss_and_gradients(
    run: Run, outputs: Sequence[Tensor], targets: Tensor, images: Tensor
) -> tuple[Loss, list[Tensor]]:
    """The loss, and its gradient by each output in that one's own type; zero where the loss does not depend on it."""
    leaves = [output.detach().float().requires_grad_() for output in outputs]
    loss = run.job.loss(leaves, targets, images)
    if loss.total.requires_grad:
        torch.autograd.backward(run.scaler.scale(loss.total))
    gradients = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]
    return loss, [gradient.to(output.dtype) for gradient, output in zip(gradients, outputs, strict=True)]


def _walk_back(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Through the network from its outputs, but for those that nothing trained has made."""
    pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
    torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])


@contextlib.contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
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
