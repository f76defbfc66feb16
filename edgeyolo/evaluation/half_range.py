"""Whether float16 holds what a network computes on real pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgeyolo.geometry.network_input import make_input
from edgeyolo.graph.largest import watch_largest
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.packages import import_package
from edgeyolo.spec.tensor import INPUT_NAME

logger = logging.getLogger(__name__)

LARGEST_HALF = float(np.finfo(np.float16).max)


def find_largest(onnx_path: Path, images: Iterable[Image], input_spec: InputSpec) -> dict[str, float]:
    """Tensor -> its largest magnitude over the pictures, in float32.

    Args:
        onnx_path: the float model.
        images: (H, W, 3) uint8 BGR, any sizes.

    Raises:
        MissingPackageError: no onnxruntime. BackendError: not a usable ONNX file.
    """
    engine = import_package("onnxruntime", needed_for="checking the range of half precision", extra="onnxruntime")
    model, names = watch_largest(load_onnx(onnx_path))
    session = engine.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = np.zeros(len(names))
    for image in images:
        largest = np.maximum(largest, session.run(None, {INPUT_NAME: make_input(image, input_spec)[0]}))
    return dict(zip(names, largest.tolist(), strict=True))


def check_half_range(onnx_path: Path, images: Iterable[Image], input_spec: InputSpec) -> None:
    """Raise BackendError where a tensor leaves the range of float16 on these pictures; arguments as above."""
    found = find_largest(onnx_path, images, input_spec)
    beyond = {name: value for name, value in found.items() if not value <= LARGEST_HALF}
    if beyond:
        name, value = max(beyond.items(), key=lambda item: item[1])
        raise BackendError(
            f"{len(beyond)} of {len(found)} tensors leave half precision on real pictures; '{name}' reaches "
            f"{value:.3g}, and float16 ends at {LARGEST_HALF:.0f}",
            where=onnx_path.name,
            hint="Deploy with precision fp32, or train with a smaller learning rate or more weight decay",
        )
    logger.info("the largest value on real pictures is %.3g; float16 ends at %.0f", max(found.values()), LARGEST_HALF)
