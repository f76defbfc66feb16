"""All checks of one set of calibration pictures, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgeyolo.data.dataset import Dataset
from edgeyolo.data.thumbnail import SIDE, Thumbnails, make_thumbnail
from edgeyolo.geometry.network_input import make_input
from edgeyolo.quantization.calibrate.pictures import CalibrationPictures
from edgeyolo.quantization.calibrate.ranges import trace_deploy_form
from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.doctor import network, pictures
from edgeyolo.quantization.doctor.network import Features
from edgeyolo.quantization.placement.groups import Placement, find_placement
from edgeyolo.spec.calibration_finding import CalibrationFinding
from edgeyolo.spec.errors import ImageError
from edgeyolo.spec.model import InputSpec

_LOOKED_AT = 16  # held-out pictures that are compared by how they look; the first of them also by activations


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        features: of the network on held-out pictures, to hold scales against; None where there are too few.
    """

    findings: tuple[CalibrationFinding, ...]
    features: Features | None = None

    def accepting(self, faults: Sequence[str]) -> Examination:
        """The same, what would be refused for one of these called accepted."""
        found = (
            msgspec.structs.replace(one, verdict="accepted")
            if one.verdict == "refused" and one.fault in faults
            else one
            for one in self.findings
        )
        return replace(self, findings=tuple(found))


def examine(
    model: nn.Module | None, calibration: CalibrationPictures, input_spec: InputSpec, held_out: Sequence[Dataset]
) -> Examination:
    """Look at the pictures, then let the network look at eight of them and at eight held-out ones.

    Args:
        model: as it was trained, with its batch norms; None to look at the pictures alone.
        held_out: splits that scores are taken on, that of choices first; pictures that cannot be read are left out.

    Raises:
        QuantizationError: the model cannot be traced.
    """
    thumbnails, (others, inputs) = calibration.thumbnails, _look_at(held_out[0], input_spec)
    heads = {pictures.head_of_file(calibration.dataset, index) for index in calibration.indices}
    found = [
        *pictures.find_few(thumbnails),
        *pictures.find_copies(thumbnails),
        *pictures.find_held_out(calibration.hashes(), heads, thumbnails, held_out, others),
        *pictures.find_dark(thumbnails, others),
        *pictures.find_dead_inputs(thumbnails),
    ]
    if model is None:
        return Examination(tuple(found))
    ours = [batch for batch, _ in zip(calibration, range(network.LEAST_LOOKED_AT), strict=False)]
    found += network.find_unlike_training(model, ours, input_spec)
    deploy = trace_deploy_form(model)
    placement = find_placement(deploy)
    here = network.collect_features(deploy, placement, ours)
    there = network.collect_features(deploy, placement, inputs, counts=True) if inputs else None
    if there is not None and min(len(ours), len(inputs)) >= network.LEAST_LOOKED_AT:
        found += network.find_unlike(here, there)
    if "value-range" not in {one.fault for one in found}:  # which stills channels by itself
        found += network.find_dead_channels(here, there)
    return Examination(tuple(found), there)


def examine_scales(examination: Examination, placement: Placement, scales: Scales) -> tuple[CalibrationFinding, ...]:
    """What the scales do to held-out pictures."""
    if examination.features is None:
        return ()
    return tuple(network.find_saturated(examination.features, placement, scales))


def _look_at(data: Dataset, input_spec: InputSpec) -> tuple[Thumbnails, list[Tensor]]:
    """Thumbnails of some pictures of a split, and network inputs of the first of them."""
    thumbnails, inputs = [np.zeros((0, SIDE, SIDE, 3), np.uint8)], list[Tensor]()
    for index in np.random.default_rng(0).permutation(len(data))[:_LOOKED_AT].tolist():
        try:
            image = data[index].image
        except ImageError:
            continue
        thumbnails.append(make_thumbnail(image)[None])
        if len(inputs) < network.LEAST_LOOKED_AT:
            inputs.append(torch.from_numpy(make_input(image, input_spec)[0]))
    return np.concatenate(thumbnails), inputs
