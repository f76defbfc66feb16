"""Picture to network input: the one way used by evaluation, calibration and the board alike."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edgeyolo.geometry.letterbox import Letterbox, letterbox_image, make_letterbox
from edgeyolo.spec.detections import Float32, Image
from edgeyolo.spec.errors import ImageError
from edgeyolo.spec.model import InputSpec

_HINT = "Give an array as cv2.imread does: (H, W, 3) uint8 in BGR order"


def bgr_from_any(image: Image) -> Image:
    """A picture as (H, W, 3) uint8 BGR.

    Args:
        image: uint8; (H, W, 3) BGR is returned as it is; (H, W) and (H, W, 1) are grey and repeated in all three
            channels; (H, W, 4) is BGRA and loses its alpha channel, without blending. H, W >= 1.

    Raises:
        ImageError: another type, shape, or an empty picture (such as the None of a cv2.imread that failed).
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
        raise ImageError(f"expected a picture, an array of uint8, and found {found}", hint=_HINT)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or image.size == 0:
        raise ImageError(f"a picture of shape {image.shape} cannot be used", hint=_HINT)
    if channels == 3:
        return image
    code = cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), code), np.uint8)


def make_input(image: Image, spec: InputSpec, *, out: Float32 | None = None) -> tuple[Float32, Letterbox]:
    """Letterbox one picture and normalise it: `(pixel / 255 - mean) / std` in the colour order of `spec`.

    Args:
        image: as `bgr_from_any` takes it.
        out: (1, 3, H, W) float32 to write into; reusing one saves the cost of fresh memory.

    Returns:
        (1, 3, H, W) float32, C-contiguous, and the letterbox that leads boxes back to the picture.

    Raises:
        ImageError: not a picture.
    """
    image = bgr_from_any(image)
    letterbox = make_letterbox((image.shape[0], image.shape[1]), spec.image_hw, alignment=spec.letterbox_alignment)
    canvas = letterbox_image(image, letterbox, value=spec.letterbox_value)
    if out is None:
        out = np.empty((1, 3, *spec.image_hw), np.float32)
    _normalise(canvas, spec, out[0])
    return out, letterbox


def make_batch(
    images: Sequence[Image], spec: InputSpec, *, out: Float32 | None = None
) -> tuple[Float32, list[Letterbox]]:
    """`make_input` for B >= 1 pictures of any sizes: (B, 3, H, W) float32 and B letterboxes."""
    if out is None:
        out = np.empty((len(images), 3, *spec.image_hw), np.float32)
    return out, [make_input(image, spec, out=out[i : i + 1])[1] for i, image in enumerate(images)]


def _normalise(canvas: Image, spec: InputSpec, planes: Float32) -> None:
    """(H, W, 3) uint8 BGR -> (3, H, W) float32 in place. Plane by plane is several times faster than a transpose."""
    channels = cv2.split(canvas)
    if spec.colour_order == "rgb":
        channels = channels[::-1]
    for channel, mean, std, plane in zip(channels, spec.mean, spec.std, planes, strict=True):
        np.multiply(channel, np.float32(1.0 / (255.0 * std)), out=plane)
        if mean:
            np.subtract(plane, np.float32(mean / std), out=plane)
