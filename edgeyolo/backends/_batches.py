"""Any number of pictures through an engine that takes a fixed number of them in a call, or up to one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgeyolo.backends.engine import check_images
from edgeyolo.spec.detections import Pixels
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.model import InputSpec, ModelSpec

Float32 = npt.NDArray[np.float32]

_ANY = 1 << 31


def batch_of_graph(first_axis: object, spec: InputSpec) -> tuple[int, int]:
    """Fewest and most pictures of a call: what the graph's input has as its first axis, or the spec where it is open.

    Raises:
        BackendError: the graph is fixed to another number than the spec says.
    """
    least, most = spec.batch
    if not isinstance(first_axis, int) or first_axis < 1:
        return spec.batch if most > 1 else (1, _ANY)
    if most > 1 and (first_axis, first_axis) != (least, most):
        raise BackendError(
            f"takes {first_axis} pictures at a time, and the manifest says {most}", hint="Deploy the bundle again"
        )
    return first_axis, first_axis


def refuse_open_batch(spec: ModelSpec, *, engine: str) -> None:
    """Raise UsageError where a model is to take several numbers of pictures, of which the engine knows one."""
    least, most = spec.input.batch
    if least != most:
        raise UsageError(
            f"{engine} takes a fixed number of pictures, not {least} to {most}", hint=f"Deploy it with --batch {most}"
        )


def run_batches(
    run: Callable[[Pixels], list[Float32]], images: Pixels, spec: InputSpec, batch: tuple[int, int]
) -> list[Float32]:
    """Maps of all pictures, by as few calls as an engine needs that takes between `batch[0]` and `batch[1]` of them.

    Black stands in for pictures that are missing of the fewest; nobody sees its maps.

    Raises:
        BackendError: pictures of another shape, or none.
    """
    check_images(images, spec)
    if len(images) == 0:
        raise BackendError("no pictures given")
    least, most = batch
    parts = []
    for start in range(0, len(images), most):
        part = images[start : start + most]
        count = len(part)
        if count < least:
            part = np.concatenate([part, np.zeros((least - count, *part.shape[1:]), part.dtype)])
        maps = run(part)
        parts.append(maps if len(part) == count else [map_[:count] for map_ in maps])
    return parts[0] if len(parts) == 1 else [np.concatenate(maps) for maps in zip(*parts, strict=True)]
