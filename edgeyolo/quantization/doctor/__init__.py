"""In: pictures to calibrate on, held-out ones, and the trained model. Out: findings, each with a number and a limit.

Verb: `examine`, before calibration; `examine_scales` after it, before they are written. Neither needs labels.
"""

from edgeyolo.quantization.doctor.examine import Examination, examine, examine_scales

__all__ = ["Examination", "examine", "examine_scales"]
