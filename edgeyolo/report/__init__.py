"""In: what quantization, export and evaluation found. Out: `report.json` and a self-contained `report.html`.

Verb: `write_report`; `artefact_rows` and `worst_pictures` prepare what it shows. Nothing here imports torch.
"""

from edgeyolo.report.pictures import worst_pictures
from edgeyolo.report.quantization import QuantizationReport, artefact_rows, write_report

__all__ = ["QuantizationReport", "artefact_rows", "worst_pictures", "write_report"]
