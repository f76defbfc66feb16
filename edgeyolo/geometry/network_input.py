"""Picture to network input: the one way, in training, calibration and evaluation and on the board.

`letterbox_for` says where a picture stands and `scaling_of` which numbers its pixels become. `InputWriter` does both at
once, only the first where the graph does the second (`InputSpec.pixels`), and neither where it does both
(`InputSpec.frame_hw`); training pads and scales apart, for it
augments between the two, with the same result to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edgeyolo.geometry.letterbox import Letterbox, make_letterbox, resize_image
from edgeyolo.spec.detections import Float32, Image, Pixels
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
        raise ImageError(
            f"expected a picture, an array of uint8, and found {found}", where="image", hint=_hint_for(image)
        )
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or image.size == 0:
        raise ImageError(f"a picture of shape {image.shape} cannot be used", where="image", hint=_hint_for(image))
    if channels == 3:
        return image
    code = cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), code), np.uint8)


def _hint_for(image: object) -> str:
    """What makes a usable picture of what was given."""
    if image is None:
        return "cv2.imread gives None for a file that it cannot read: check its path"
    if isinstance(image, str | Path):
        return "Read the file first, with cv2.imread"
    if isinstance(image, np.ndarray):
        if image.ndim == 4:
            return "Give the pictures of a batch to detect_batch, as a list"
        if image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[2] not in (1, 3, 4):
            return f"{_HINT}; the channels come last: image.transpose(1, 2, 0)"
        if image.dtype.kind == "f":
            return f"{_HINT}; floats from 0 to 1 become one by (image * 255).round().astype(np.uint8)"
        if image.dtype == np.uint16:
            return f"{_HINT}; 16 bits become 8 by (image >> 8).astype(np.uint8)"
    if hasattr(image, "convert") and hasattr(image, "size"):  # PIL, which is not needed to be installed
        return f"{_HINT}; a PIL picture becomes one by np.asarray(image.convert('RGB'))[..., ::-1]"
    return _HINT


def letterbox_for(image_hw: tuple[int, int], spec: InputSpec) -> Letterbox:
    """Where a picture of this size stands on the input canvas."""
    return make_letterbox(image_hw, spec.image_hw, alignment=spec.letterbox_alignment)


def scaling_of(spec: InputSpec) -> tuple[Float32, Float32]:
    """Factor and offset, each (3,) per channel: a pixel of 0-255 becomes `pixel * factor - offset`.

    That is `(pixel / 255 - mean) / std`, rounded once for each number instead of once for each pixel.
    """
    mean, std = np.array(spec.mean), np.array(spec.std)
    return (1.0 / (255.0 * std)).astype(np.float32), (mean / std).astype(np.float32)


def empty_input(spec: InputSpec, count: int) -> Pixels:
    """Memory for the inputs of `count` pictures, with nothing in it: (B, 3, H, W) float32, or (B, H, W, 3) uint8 of the
    canvas or of the frame."""
    return np.empty((count, *spec.shape), spec.pixels)


def make_input(image: Image, spec: InputSpec, *, out: Pixels | None = None) -> tuple[Pixels, Letterbox]:
    """Letterbox one picture and normalise it: `(pixel / 255 - mean) / std` in the colour order of `spec`.

    Args:
        image: as `bgr_from_any` takes it.
        out: of one picture, as `empty_input` gives it; reusing one saves the cost of fresh memory.

    Returns:
        (1, 3, H, W) float32, C-contiguous, and the letterbox that leads boxes back to the picture; for a graph that
        normalises, the letterboxed picture itself, (1, H, W, 3) uint8 BGR, and for one that letterboxes, the picture.

    Raises:
        ImageError: not a picture, or not one of the size that the graph letterboxes.
    """
    if out is None:
        out = empty_input(spec, 1)
    return out, InputWriter(spec).write(image, out[0])


def make_batch(
    images: Sequence[Image], spec: InputSpec, *, out: Pixels | None = None, writer: InputWriter | None = None
) -> tuple[Pixels, list[Letterbox]]:
    """`make_input` for B >= 1 pictures of any sizes: their inputs and B letterboxes.

    Args:
        writer: one made for `spec`; reusing it saves the cost of fresh memory.
    """
    if out is None:
        out = empty_input(spec, len(images))
    if writer is None:
        writer = InputWriter(spec)
    letterboxes = []
    for i, image in enumerate(images):
        try:
            letterboxes.append(writer.write(image, out[i]))
        except ImageError as error:
            where = f"picture {i} of {len(images)}" if len(images) > 1 else error.where
            raise ImageError(error.what, where=where, hint=error.hint) from None
    return out, letterboxes


def _check_frame(image: Image, frame_hw: tuple[int, int]) -> None:
    if image.shape[:2] != frame_hw:
        (height, width), found = frame_hw, image.shape
        raise ImageError(
            f"a picture of {found[1]} x {found[0]} pixels, and the model was deployed for {width} x {height}",
            where="image",
            hint="Deploy it for a target without frame_hw, which takes pictures of any size",
        )


class InputWriter:
    """Writes pictures as network inputs, with memory of its own for the steps between; one thread at a time.

    Only the picture is resized and split into planes; the padding around it is filled in as the number that it becomes.
    """

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        pixels = spec.image_hw[0] * spec.image_hw[1]
        self._resized = np.empty(3 * pixels, np.uint8)
        self._planes = [np.empty(pixels, np.uint8) for _ in range(3)]
        self._scaling = list(zip(*scaling_of(spec), strict=True))

    def write(self, image: Image, out: Pixels) -> Letterbox:
        """Fill `out`, the input of one picture, from a picture; arguments and errors as in `make_input`."""
        image = bgr_from_any(image)
        letterbox = letterbox_for((image.shape[0], image.shape[1]), self._spec)
        if self._spec.frame_hw:
            _check_frame(image, self._spec.frame_hw)
            out[:] = image
        elif self._spec.pixels == "uint8":
            self._write_bytes(image, letterbox, out)
        else:
            self._write_floats(image, letterbox, out)
        return letterbox

    def _write_bytes(self, image: Image, letterbox: Letterbox, out: Pixels) -> None:
        """Straight into the canvas, where the picture takes up whole rows of it; through our own memory otherwise."""
        (height, width), top, left = letterbox.resized_hw, letterbox.pad_top, letterbox.pad_left
        place = out[top : top + height, left : left + width]
        if width == out.shape[1] and image.shape[:2] != (height, width):
            resize_image(image, (height, width), out=place)
        else:
            place[:] = resize_image(image, (height, width), out=self._canvas(height, width))
        out[:top], out[top + height :] = self._spec.letterbox_value, self._spec.letterbox_value
        out[top : top + height, :left] = self._spec.letterbox_value
        out[top : top + height, left + width :] = self._spec.letterbox_value

    def _write_floats(self, image: Image, letterbox: Letterbox, out: Pixels) -> None:
        spec = self._spec
        channels = self._split(image, letterbox.resized_hw)
        (height, width), top, left = letterbox.resized_hw, letterbox.pad_top, letterbox.pad_left
        grey = np.uint8(spec.letterbox_value)
        for channel, (factor, offset), plane in zip(channels, self._scaling, out, strict=True):
            place = plane[top : top + height, left : left + width]
            np.multiply(channel, factor, out=place)
            if offset:
                np.subtract(place, offset, out=place)
            padding = np.multiply(grey, factor) - offset
            plane[:top], plane[top + height :] = padding, padding
            plane[top : top + height, :left], plane[top : top + height, left + width :] = padding, padding

    def _canvas(self, height: int, width: int) -> Image:
        return self._resized[: height * width * 3].reshape(height, width, 3)

    def _split(self, image: Image, size_hw: tuple[int, int]) -> list[Image]:
        """Resize a picture, bilinear, and give its planes, each of `size_hw`, in the network's colour order."""
        height, width = size_hw
        image = resize_image(image, size_hw, out=self._canvas(height, width))
        planes = [plane[: height * width].reshape(size_hw) for plane in self._planes]
        cv2.split(image, planes)
        return planes if self._spec.colour_order == "bgr" else planes[::-1]
