"""One step of training: forward, loss, backward, optimizer, average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeyolo.criteria.criterion import Loss
from edgeyolo.geometry.network_input import scaling_of
from edgeyolo.spec.model import InputSpec
from edgeyolo.training.adversarial import deceive
from edgeyolo.training.batch_size import is_out_of_memory
from edgeyolo.training.faults import (
    is_compiler_error,
    no_compiler_error,
    no_memory_error,
    no_number_error,
    too_few_values_error,
)
from edgeyolo.training.loader import Batch
from edgeyolo.training.parts import backward_in_parts
from edgeyolo.training.run import Run


def train_step(run: Run, batch: Batch) -> dict[str, Tensor]:
    """Forward, loss, backward, optimizer, average; returns the loss parts and their `total`.

    Raises:
        TrainingError: the loss or a gradient, on a GPU perhaps of some steps before, is not a finite number, or memory
            runs out; no weight has been changed by that batch then. UsageError: batch and image_size are too small to
            train, or the model cannot be compiled.
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
    images, targets = _on_device(run, batch)
    images = deceive(run, images)
    run.optimizer.zero_grad(set_to_none=True)
    loss = backward(run, images, targets)
    run.scaler.unscale_(run.optimizer)
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    run.watch.add(batch, loss.total.detach(), norm, norm_counts=not run.scaler.is_enabled())
    check_numbers(run, lag=run.watch.lag)
    torch._foreach_mul_(gradients, (run.config.clip_norm / (norm + 1e-6)).clamp(max=1.0))
    if run.watch.lag:
        run.optimizer.found_inf = run.watch.is_bad  # type: ignore[attr-defined]
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.ema.step(run.model)
    return {**loss.parts, "total": loss.total.detach()}


def check_numbers(run: Run, *, lag: int = 0) -> None:
    """See that all steps but the last `lag` had finite numbers; the weights are those before the first that had not.

    Raises:
        TrainingError: one had not.
    """
    bad = run.watch.first_bad(lag=lag)
    if bad is None:
        return
    images, targets = _on_device(run, bad.batch)
    if run.watch.lag and not run.world.is_shared:  # the gradients that are there may be a later step's
        run.optimizer.zero_grad(set_to_none=True)
        backward(run, images, targets)
    _, loss, norm = bad.numbers
    raise no_number_error(run, images, bad.batch.image_ids, loss, norm)


def _on_device(run: Run, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pictures as the network takes them, and targets."""
    images = batch.images.to(run.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    return normalise(images, run.job.spec.input), batch.targets.to(run.device, non_blocking=True)


def backward(run: Run, images: Tensor, targets: Tensor) -> Loss:
    """Add the gradient of a batch's loss to the model's."""
    if run.config.accumulate > 1:
        return backward_in_parts(run, images, targets)
    with run.job.autocast():
        outputs: list[Tensor] = run.forward(images)
    loss = run.job.loss([output.float() for output in outputs], targets, images)
    _propagate(run.scaler.scale(loss.total), outputs)
    return loss


def _propagate(total: Tensor, outputs: Sequence[Tensor]) -> None:
    """Back from the loss, and with a gradient of zero from outputs that it does not depend on.

    Otherwise a batch without objects would leave parameters without a gradient, which other processes wait for.
    """
    roots = [(output, torch.zeros_like(output)) for output in outputs if output.requires_grad]
    if total.requires_grad:
        roots.append((total, torch.ones_like(total)))
    torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots])


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 as the network takes it, to the bit as on the board."""
    factor, offset = (
        torch.from_numpy(values).to(images.device, non_blocking=True).view(1, 3, 1, 1) for values in scaling_of(spec)
    )
    return images.float() * factor - offset
