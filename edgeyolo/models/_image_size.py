"""The one thing a detector asks of the size of its input."""

from __future__ import annotations

from edgeyolo.spec.errors import UsageError


def check_image_hw(image_hw: tuple[int, int], stride: int) -> None:
    """Refuse a size that the coarsest level would cut.

    Raises:
        UsageError: height or width is not a positive multiple of `stride`.
    """
    for side in image_hw:
        if side < stride or side % stride:
            near = max(stride, round(side / stride) * stride)
            raise UsageError(
                f"{side} is not a positive multiple of the coarsest stride, {stride}",
                where=f"image size {image_hw[0]}x{image_hw[1]}",
                hint=f"Nearest that works: {near}",
            )
