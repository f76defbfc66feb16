"""In: paths and options. Out: files, scores, and the records of both. Verb: named like its command.

Each verb puts rooms together and loads them only when it is called.
"""

from edgeyolo.spec.quantizing import QuantizeOptions
from edgeyolo.verbs._artefacts import measure_built
from edgeyolo.verbs._build import BuildResult, build
from edgeyolo.verbs._deploy import DeployResult, check_licence, deploy
from edgeyolo.verbs._estimate import EstimateResult, estimate
from edgeyolo.verbs._evaluate import artefact_name, evaluate, transfer_of
from edgeyolo.verbs._evaluate_tracks import evaluate_tracks, score_track_files
from edgeyolo.verbs._examine import check_calibration
from edgeyolo.verbs._fleet import bundle_for
from edgeyolo.verbs._identify import ExaminedGraph, ExaminedWeights, examine_graph, examine_weights
from edgeyolo.verbs._import import ImportResult, import_weights
from edgeyolo.verbs._import_onnx import ONNX_SUFFIX, ImportedGraph, import_graph
from edgeyolo.verbs._quantize import QuantizeResult, quantize
from edgeyolo.verbs._report import ReportResult, report
from edgeyolo.verbs._search import search
from edgeyolo.verbs._splits import open_measured
from edgeyolo.verbs._train import train

__all__ = [
    "ONNX_SUFFIX",
    "BuildResult",
    "DeployResult",
    "EstimateResult",
    "ExaminedGraph",
    "ExaminedWeights",
    "ImportResult",
    "ImportedGraph",
    "QuantizeOptions",
    "QuantizeResult",
    "ReportResult",
    "artefact_name",
    "build",
    "bundle_for",
    "check_calibration",
    "check_licence",
    "deploy",
    "estimate",
    "evaluate",
    "evaluate_tracks",
    "examine_graph",
    "examine_weights",
    "import_graph",
    "import_weights",
    "measure_built",
    "open_measured",
    "quantize",
    "report",
    "score_track_files",
    "search",
    "train",
    "transfer_of",
]
