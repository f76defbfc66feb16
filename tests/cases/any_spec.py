"""A `ModelSpec` for a graph made by hand, of which only the size and the number of maps matter."""

from __future__ import annotations

from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec


def any_spec(image_hw: tuple[int, int], maps: int = 1) -> ModelSpec:
    """Input size in pixels, and how many raw maps the graph gives."""
    decode = AnchorDecode(strides=(8,) * maps, anchors_wh=(((8.0, 8.0),),) * maps)
    return ModelSpec(
        name="by hand", activation="relu", class_names=("a",), input=InputSpec(image_hw=image_hw), decode=decode
    )
