"""An exported graph must compute what torch computes, before anyone builds from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from edgeyolo.geometry.network_input import scaling_of
from edgeyolo.heads import head_of
from edgeyolo.spec.errors import ExportError, MissingPackageError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.tensor import INPUT_NAME, output_names

TOLERANCE = 1e-4  # of the range of each map
ROUNDING = 1e-5  # of its largest magnitude: sums in another order, under a large bias

Maps = list[npt.NDArray[np.float32]]


def check_parity(
    model: onnx.ModelProto, module: nn.Module, spec: ModelSpec, *, batches: tuple[int, ...] = (1,)
) -> None:
    """Compare ONNX Runtime with torch on a random input of fixed seed.

    Args:
        batches: batch sizes to try; more than one only for a graph with a dynamic batch.

    Raises:
        ExportError: not valid ONNX, other maps than `spec.decode` states, or a map that differs by more than
            `TOLERANCE` of its range, rounding apart, or an ONNX Runtime without an operator of it.
        MissingPackageError: ONNX Runtime is not installed.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"not a valid graph ({error})", where="model.onnx") from error
    for batch in batches:
        images = _random_images(batch, spec)
        with torch.no_grad():
            expected = [map_.cpu().numpy() for map_ in module(torch.from_numpy(images).to(_device(module)))]
        _check_shapes(expected, spec)
        _check_close(_run_onnx(model, images), expected)


def _check_close(found: Maps, expected: Maps) -> None:
    for name, ours, torchs in zip(output_names(len(expected)), found, expected, strict=True):
        span, largest = float(np.ptp(torchs)), float(np.abs(torchs).max())
        difference = float(np.abs(ours - torchs).max())
        if not difference <= TOLERANCE * span + ROUNDING * largest:  # also refuses NaN
            what = f"{name} differs from torch by {difference:.2g}, its range being {span:.2g}"
            raise ExportError(what, where="model.onnx", hint="Check the weights for huge or non-finite values")


def _check_shapes(maps: Maps, spec: ModelSpec) -> None:
    expected = head_of(spec.decode).map_shapes(len(spec.class_names), spec.input.image_hw)
    found = [map_.shape[1:] for map_ in maps]
    if found != expected:
        what = f"the maps are {found}, and {len(spec.class_names)} classes and the decode need {expected}"
        raise ExportError(what, where=spec.name, hint="The image size must be a multiple of the coarsest stride")


def _random_images(batch: int, spec: ModelSpec) -> npt.NDArray[np.float32]:
    """(B, 3, H, W) random pixels, normalised."""
    pixels = 255 * np.random.default_rng(0).random((batch, 3, *spec.input.image_hw), dtype=np.float32)
    factor, offset = (values[:, None, None] for values in scaling_of(spec.input))
    return np.asarray(pixels * factor - offset, np.float32)


def _run_onnx(model: onnx.ModelProto, images: npt.NDArray[np.float32]) -> Maps:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        install = "pip install 'edgeyolo[train]'"
        raise MissingPackageError("onnxruntime", needed_for="checking an export", install=install) from None
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except (state.NotImplemented, state.Fail) as error:
        hint = "Install a newer one, or take a variant without (ppyolo-r50 for ppyolo-r50-dcn)"
        what = f"ONNX Runtime {onnxruntime.__version__} lacks an operator of it ({error})"
        raise ExportError(what, where="model.onnx", hint=hint) from None
    return [np.asarray(map_) for map_ in session.run(None, {INPUT_NAME: images})]


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
