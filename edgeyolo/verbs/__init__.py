"""The public verbs: each puts rooms together, and is what the command of the same name calls."""

from edgeyolo.verbs._deploy import DeployResult, deploy
from edgeyolo.verbs._evaluate import artefact_name, evaluate
from edgeyolo.verbs._quantize import QuantizeOptions, QuantizeResult, quantize
from edgeyolo.verbs._splits import validation_split
from edgeyolo.verbs._train import train
from edgeyolo.verbs._tune import tune

__all__ = [
    "DeployResult",
    "QuantizeOptions",
    "QuantizeResult",
    "artefact_name",
    "deploy",
    "evaluate",
    "quantize",
    "train",
    "tune",
    "validation_split",
]
