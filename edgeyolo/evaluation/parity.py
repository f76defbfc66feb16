"""Raw head maps of two sessions on the same pictures, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from edgeyolo.backends import Session
from edgeyolo.geometry.network_input import make_input
from edgeyolo.spec.detections import Image
from edgeyolo.spec.model import InputSpec


class MapDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How far one map of `other` is from the same map of `reference`, over all pictures.

    A figure is None where it is not defined: the reference is constant, or one of the maps is not finite.

    Attributes:
        relative_rms: root mean square of the difference / standard deviation of the reference.
        relative_max: largest absolute difference / (max - min) of the reference.
        correlation: Pearson's, 1 for equal shapes; also None where `other` is constant.
    """

    map_name: str
    relative_rms: float | None
    relative_max: float | None
    correlation: float | None


def compare_maps(
    reference: Session, other: Session, images: Iterable[Image], input_spec: InputSpec
) -> list[MapDifference]:
    """Run both sessions on every picture; one row per map, in the order of the decode.

    Args:
        images: (H, W, 3) uint8 BGR, any sizes.
    """
    pairs: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for image in images:
        batch, _ = make_input(image, input_spec)
        pairs.append(list(zip(reference.run(batch), other.run(batch), strict=True)))
    return [
        _difference(f"map_{i}", *(np.stack([p[i][side] for p in pairs]).astype(np.float64) for side in (0, 1)))
        for i in range(len(pairs[0]))
    ]


def _difference(name: str, reference: np.ndarray, other: np.ndarray) -> MapDifference:
    if not (np.isfinite(reference).all() and np.isfinite(other).all()) or np.ptp(reference) == 0:
        return MapDifference(map_name=name, relative_rms=None, relative_max=None, correlation=None)
    difference = other - reference
    correlation = float(np.corrcoef(reference.ravel(), other.ravel())[0, 1]) if np.ptp(other) > 0 else None
    return MapDifference(
        map_name=name,
        relative_rms=float(np.sqrt(np.mean(difference**2)) / reference.std()),
        relative_max=float(np.abs(difference).max() / np.ptp(reference)),
        correlation=correlation,
    )
