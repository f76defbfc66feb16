"""What is said when a step fails: a number that is not finite, no memory left, too small a batch, no compiler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeyolo.spec.errors import TrainingError, UsageError
from edgeyolo.training.batch_size import largest_fitting
from edgeyolo.training.run import Run


def no_number_error(run: Run, images: Tensor, image_ids: Sequence[str], loss: Tensor, norm: Tensor) -> TrainingError:
    """Says which pictures, and which layer first, gave a number that is not finite.

    Args:
        images: (B, 3, H, W) as the model got them.
    """
    hint = "Lower the learning rate or look at these pictures' labels; the last checkpoint is good"
    epoch = f"in epoch {run.epoch + 1}"
    if not torch.isfinite(loss):
        layer = find_broken_layer(run, images)
        place = (
            f"; the first values that are not finite come from layer {layer}" if layer else "; every layer is finite"
        )
        what = f"the loss is {float(loss)} {epoch}{place}"
    elif run.world.is_shared:
        what = f"the gradients are not finite {epoch} (norm {float(norm)}), perhaps by another process's pictures"
    else:
        layer = next((n for n, p in run.model.named_parameters() if p.grad is not None and not _finite(p.grad)), "none")
        what = f"the gradients are not finite {epoch}, first of {layer}"
    return TrainingError(what, where=", ".join(image_ids), hint=hint)


@torch.no_grad()
def find_broken_layer(run: Run, images: Tensor) -> str:
    """The first layer, in the order of their calls, whose output is not finite; empty if all are.

    In a distributed run with the statistics so far instead of the batch's, because nobody else takes part.
    """
    found: list[str] = []

    def watch(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not found and not _finite(output):
                found.append(name)

        return hook

    layers = [(name, module) for name, module in run.model.named_modules() if not list(module.children())]
    hooks = [module.register_forward_hook(watch(name)) for name, module in layers]
    run.model.train(run.job.trains_statistics and not run.world.is_shared)
    try:
        with run.job.autocast():
            run.model(images)
    finally:
        for handle in hooks:
            handle.remove()
        run.start_training()
    return found[0] if found else ""


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def no_memory_error(run: Run, images: int, error: BaseException) -> TrainingError:
    """Says which batch would have fitted.

    Args:
        images: pictures of the step on this process.
    """
    run.optimizer.zero_grad(set_to_none=True)
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    fitting = min(images - 1, largest_fitting(run.job, run.ema.average, states=1))
    total = fitting * run.world.size
    if fitting >= 1:
        hint = f"A batch of {total} would fit: --batch {total}, or --set accumulate={-(-images // fitting)}"
    else:
        hint = "Not one picture would fit: take a smaller model or image_size"
    return TrainingError(
        f"out of memory at batch {run.config.batch} ({str(error).splitlines()[0] if str(error) else 'MemoryError'})",
        where=f"{run.job.spec.name} at {run.config.image_size} on {run.device}",
        hint=f"{hint}. The last checkpoint is good",
    )


def too_few_values_error(run: Run, images: Tensor) -> UsageError:
    """Says why a batch of (B, 3, H, W) pictures is too small for batch normalisation."""
    return UsageError(
        f"a batch of {len(images)} at {images.shape[2]} x {images.shape[3]} pixels leaves one value per"
        " channel at the coarsest level, and batch normalisation needs more",
        where=run.job.spec.name,
        hint="Take a larger image_size or batch",
    )


def is_compiler_error(error: BaseException) -> bool:
    """Whether an error comes from torch.compile."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def no_compiler_error(error: BaseException) -> UsageError:
    """Says that torch.compile cannot build the model here."""
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UsageError(
        f"torch.compile failed ({reason})",
        where="compile",
        hint="It needs a C++ compiler on a CPU, Triton on a GPU; set compile=false to train without",
    )
