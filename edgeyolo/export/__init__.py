"""In: a deploy form or `Quantized`, and its ModelSpec. Out: a folder of model.onnx, model.json and qparams.json.

Verb: `export_model`. Nothing is written under its final name before ONNX Runtime agrees with torch.
"""

from edgeyolo.export.export import export_model

__all__ = ["export_model"]
