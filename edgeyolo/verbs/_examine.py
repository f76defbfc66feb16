"""What `quantize` makes of the calibration doctor: warnings, a refusal, or a list alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edgeyolo.spec.calibration_finding import CalibrationFinding, Fault
from edgeyolo.spec.errors import CalibrationError, UnknownNameError
from edgeyolo.spec.recipe import DEFAULT_RECIPE
from edgeyolo.verbs._splits import open_held_out, open_training_data, opener_of

if TYPE_CHECKING:
    from torch import nn

    from edgeyolo.data.dataset import Dataset
    from edgeyolo.quantization.calibrate.pictures import CalibrationPictures
    from edgeyolo.quantization.doctor import Examination
    from edgeyolo.spec.model import InputSpec

logger = logging.getLogger(__name__)


def check_calibration(
    checkpoint: Path, data: Path, *, recipe: str = DEFAULT_RECIPE, accept: Sequence[str] = ()
) -> tuple[CalibrationFinding, ...]:
    """Look at the pictures that `quantize` would calibrate on; nothing is refused, and nothing written.

    Args:
        recipe, accept: as for `quantize`.

    Raises:
        UnknownNameError: no such recipe, or no such finding to accept.
        CheckpointError, DataError, QuantizationError: as their names say.
    """
    from edgeyolo.quantization.calibrate.pictures import calibration_pictures
    from edgeyolo.spec.recipe import load_recipe
    from edgeyolo.training.checkpoint import load_checkpoint

    check_accepted(accept)
    settings, source = load_recipe(recipe), load_checkpoint(checkpoint)
    spec, opener = source.record.model.input, opener_of(source.record.model)
    train_data, choice_data = open_training_data(data, opener)
    pictures, _ = calibration_pictures(train_data, spec, count=settings.count, seed=settings.seed)
    return examine_pictures(source.model, pictures, spec, open_held_out(data, choice_data, opener), accept).findings


def check_accepted(accept: Sequence[str]) -> None:
    """Raise UnknownNameError for a finding that there is not."""
    for name in accept:
        if name not in get_args(Fault):
            raise UnknownNameError("finding", name, get_args(Fault), where="accept")


def examine_pictures(
    model: nn.Module | None,
    pictures: CalibrationPictures,
    spec: InputSpec,
    held_out: Sequence[Dataset],
    accept: Sequence[str],
) -> Examination:
    """`quantization.doctor.examine`, with what the user goes on with all the same called accepted."""
    from edgeyolo.quantization.doctor import examine

    return examine(model, pictures, spec, held_out).accepting(accept)


def tell_findings(findings: Sequence[CalibrationFinding]) -> None:
    """Warn of what is not refused.

    Raises:
        CalibrationError: something is.
    """
    refused = [found for found in findings if found.verdict == "refused"]
    for found in findings:
        if found.verdict != "refused":
            logger.warning("%s", found)
    if refused:
        names = " ".join(f"--accept {found.fault}" for found in refused)
        raise CalibrationError(
            "; ".join(str(found) for found in refused), where="calibration pictures", hint=f"Or go on with {names}"
        )
