"""In: what quantization, training and evaluation found, as their own structs. Out: pages, plots, `report.json`.

Verb: `write_report`, and `write_training_report` in `report.training`. Whatever is drawn or written as a page is here.
"""

from edgeyolo.report.pictures import worst_pictures
from edgeyolo.report.quantization import QuantizationReport, artefact_rows
from edgeyolo.report.quantization_page import write_report

__all__ = ["QuantizationReport", "artefact_rows", "worst_pictures", "write_report"]
