"""One picture with its objects."""

from __future__ import annotations

from dataclasses import dataclass

from edgeyolo.spec.detections import Float32, Image, Int64


@dataclass(frozen=True)
class Sample:
    """A picture and what is in it.

    Attributes:
        image: (H, W, 3) uint8, blue green red.
        boxes_xyxy: (M, 4) float32 in pixels of `image`, inside it, with area.
        class_ids: (M,) int64 in [0, K).
        image_id: unique within its split.
    """

    image: Image
    boxes_xyxy: Float32
    class_ids: Int64
    image_id: str
