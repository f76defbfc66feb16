"""The door of this room: write the folder that every backend is built from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from edgeyolo.backends import list_packages
from edgeyolo.export.onnx import trace_onnx
from edgeyolo.export.qparams import make_qparams
from edgeyolo.export.verify import check_parity
from edgeyolo.graph.receptive_field import receptive_fields
from edgeyolo.quantization.quantize import Quantized
from edgeyolo.spec.atomic import replacing_folder
from edgeyolo.spec.model import ModelRecord, ModelSpec, Score
from edgeyolo.spec.provenance import tool_versions
from edgeyolo.spec.qparams import save_qparams
from edgeyolo.spec.quantizing import QUANTIZED_FILES
from edgeyolo.spec.strict import encode_json


def export_model(
    module: nn.Module | Quantized,
    spec: ModelSpec,
    out: Path,
    *,
    dynamic_batch: bool = False,
    checkpoint_sha256: str = "",
    scores: Sequence[Score] = (),
) -> ModelRecord:
    """Write `model.onnx` (float) and `model.json` to the folder `out`, and `qparams.json` if quantized.

    A folder that an earlier export wrote is replaced as a whole, and only after ONNX Runtime gave the same maps as
    torch.

    Args:
        module: a deploy form, or what `quantization.quantize` gives.
        dynamic_batch: leave the first axis of input and outputs open, instead of 1.
        checkpoint_sha256: of the checkpoint it came from, "" for random weights.
        scores: measured so far, the float model first.

    Raises:
        ExportError: cannot be traced, or does not survive it unchanged; then nothing is written.
        OutputError: `out` cannot be written, or holds something that is not replaced (`QUANTIZED_FILES`).
    """
    deploy = module.float_deploy if isinstance(module, Quantized) else module
    model = trace_onnx(deploy, spec.input.image_hw, spec.output_count, dynamic_batch=dynamic_batch)
    check_parity(model, deploy, spec, batches=(1, 2) if dynamic_batch else (1,))
    raw = model.SerializeToString(deterministic=True)
    digest = hashlib.sha256(raw).hexdigest()
    qparams = make_qparams(module, model, digest) if isinstance(module, Quantized) else None
    record = ModelRecord(
        model=spec,
        onnx_sha256=digest,
        receptive_fields=tuple(receptive_fields(model, spec.decode.strides)),
        checkpoint_sha256=checkpoint_sha256,
        scores=tuple(scores),
        tools=tool_versions(list_packages()),
    )
    with replacing_folder(out, names=QUANTIZED_FILES) as folder:
        (folder / "model.onnx").write_bytes(raw)
        (folder / "model.json").write_bytes(encode_json(record))
        if qparams is not None:
            save_qparams(qparams, folder / "qparams.json")
    return record
