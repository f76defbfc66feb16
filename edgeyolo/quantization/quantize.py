"""The door of this room: a trained model and pictures -> scales, and a model that computes as int8 engines do."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import fx, nn

from edgeyolo.heads import scored_decode
from edgeyolo.quantization.calibrate.cache import Calibration, CalibrationCache
from edgeyolo.quantization.calibrate.output_error import PICTURES, costly_layers
from edgeyolo.quantization.calibrate.ranges import Picture, calibrate, check_batch, trace_deploy_form
from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.quantization.placement.groups import Placement, find_placement
from edgeyolo.quantization.quantizers import insert_quantizers
from edgeyolo.quantization.recover.bias_correction import corrected_biases, with_biases
from edgeyolo.quantization.recover.equalize import equalize
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.model import RawDecode
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import CalibrationRecord
from edgeyolo.spec.recipe import Recipe
from edgeyolo.training.distributed import current_world

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quantized:
    """What quantization gives; `export.export_model` turns it into model.onnx and qparams.json.

    Attributes:
        fake_quant: deploy form with fake quantizers, (B, 3, H, W) -> raw maps: what an int8 engine computes.
        float_deploy: deploy form without, what is exported; the same names of parameters.
        reference: the float model to compare with: the deploy form before a recipe equalized it or corrected its
            biases; `float_deploy` itself where neither was done.
        placement: groups and precision of each layer.
        scales: of `placement`.
        calibration: where the scales come from.
    """

    fake_quant: fx.GraphModule
    float_deploy: fx.GraphModule
    placement: Placement
    scales: Scales
    calibration: CalibrationRecord
    reference: fx.GraphModule

    def on(self, device: torch.device) -> Quantized:
        """The same with copies of its modules on a device; itself where they are there."""
        if next(self.reference.parameters()).device == device:
            return self
        modules = (self.fake_quant, self.float_deploy, self.reference)
        moved = {id(module): copy.deepcopy(module).to(device) for module in modules}
        fake_quant, float_deploy, reference = (moved[id(module)] for module in modules)
        return replace(self, fake_quant=fake_quant, float_deploy=float_deploy, reference=reference)


def quantize(
    model: nn.Module,
    pictures: Iterable[Picture],
    recipe: Recipe,
    *,
    recipe_name: str,
    picture_hashes: dict[str, str],
    cache: CalibrationCache | None = None,
    progress: Progress = SILENT,
) -> Quantized:
    """Quantize a trained model after training, on the device that it is on. `model` is left as it is.

    Its `decode`, if it has one, says what outputs mean. Processes that have joined take a share of the pictures each,
    and all get the same.

    Args:
        pictures: (B, 3, H, W) float32 network inputs of training pictures, as `calibration_pictures` gives them.
        picture_hashes: image id -> sha256 of the file, in the order of `pictures`; for the record, and for the cache.
        cache: where to look for, and keep, the outcome of calibrating the same model on the same pictures.
        progress: told after each batch of pictures.

    Raises:
        QuantizationError: the model cannot be traced, nothing is left to quantize, no pictures, values not finite.
        UnknownNameError: `recipe.float_layers` names a layer that does not exist.
        UsageError: settings of the recipe that cannot be used.
    """
    reference = trace_deploy_form(model)
    placement = find_placement(reference, recipe.float_layers, depthwise=recipe.depthwise)
    _report(placement)
    deploy = equalize(reference, placement.int8_layers()) if recipe.equalize else reference

    decode = scored_decode(getattr(model, "decode", None))
    key = cache.make_key(reference, picture_hashes, recipe, decode) if cache else None
    world = current_world()
    found = world.by_first(lambda: cache.load(key) if cache and key else None)
    if found is None:
        found = _calibrate(deploy, placement, pictures, recipe, decode, progress)
        if cache and key and world.is_first and found.count == len(picture_hashes):
            cache.store(key, found)
    else:
        logger.info("scales are those of an earlier calibration on the same %d pictures", found.count)
        progress.step("calibrate", found.count, found.count, "from the cache")

    if found.float_layers:
        logger.info("%d layers are kept float for what rounding their inputs does", len(found.float_layers))
        placement = placement.with_float(found.float_layers)
    if found.biases:
        deploy = with_biases(deploy, found.biases)
    record = CalibrationRecord(
        recipe=recipe_name, method="ptq", count=found.count, seed=recipe.seed, pictures=dict(picture_hashes)
    )
    fake_quant = insert_quantizers(deploy, placement, found.scales)
    return Quantized(fake_quant, deploy, placement, found.scales, record, reference)


def _calibrate(
    deploy: fx.GraphModule,
    placement: Placement,
    pictures: Iterable[Picture],
    recipe: Recipe,
    decode: RawDecode | None,
    progress: Progress,
) -> Calibration:
    is_read_again = recipe.bias_correction or recipe.observer == "output" or recipe.float_error > 0
    if is_read_again and isinstance(pictures, Iterator):
        pictures = list(pictures)
    scales, count = calibrate(deploy, placement, pictures, recipe, decode=decode, progress=progress)
    costly: dict[str, str] = {}
    if recipe.float_error > 0:
        costly = current_world().by_first(
            lambda: costly_layers(
                deploy,
                placement,
                scales,
                [check_batch(picture) for picture in islice(pictures, PICTURES)],
                recipe.float_error,
                decode=decode,
                progress=progress,
            )
        )
        placement = placement.with_float(costly)
        scales = scales.of(placement.groups, placement.int8_layers())
    biases = corrected_biases(deploy, placement, scales, pictures, progress) if recipe.bias_correction else {}
    return Calibration(scales=scales, count=count, biases=biases, float_layers=costly)


def _report(placement: Placement) -> None:
    if not placement.int8_layers():
        hint = "Keep fewer layers float in the recipe"
        raise QuantizationError("no layer is left to quantize", where="float_layers", hint=hint)
    for operator in placement.unsupported:
        logger.warning("unsupported operator %s: the layers that read it stay float", operator)
    whys = Counter(plan.why for plan in placement.layers.values() if plan.precision == "float")
    kept = "; ".join(f"{count} float ({why})" for why, count in whys.items())
    int8, groups = len(placement.int8_layers()), len(placement.groups)
    logger.info("%d layers int8 in %d scale groups%s", int8, groups, f"; {kept}" if kept else "")
