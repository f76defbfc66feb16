"""In: a trained model, a recipe, clean training pictures. Out: `Quantized`, with scales of tensor groups and weights.

Verb: `quantize`; `calibration_pictures` prepares its pictures. Works on the deploy form, so what it sees is what ships.
"""

from edgeyolo.quantization.calibrate.pictures import CalibrationPictures, calibration_pictures
from edgeyolo.quantization.placement.groups import Placement, find_placement
from edgeyolo.quantization.quantize import Quantized, quantize

__all__ = [
    "CalibrationPictures",
    "Placement",
    "Quantized",
    "calibration_pictures",
    "find_placement",
    "quantize",
]
