"""`quantize`: checkpoint -> model.onnx + qparams.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeyolo.spec.model import Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import QParams, load_qparams
from edgeyolo.verbs._splits import validation_split


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` wrote: the folder, scores so far, and how many layers run in each precision."""

    folder: Path
    scores: tuple[Score, ...]
    layers: dict[str, int]


def quantize(
    checkpoint: Path,
    data: Path,
    out: Path,
    *,
    recipe: str = "int8-mse",
    evaluate: bool = True,
    split: str | None = None,
    progress: Progress = SILENT,
) -> QuantizeResult:
    """Calibrate a trained model on training pictures and write `model.onnx`, `qparams.json` and `model.json` to `out`.

    Args:
        recipe: name in `calib/`, or a path to a `.toml`.
        evaluate: measure the float and the fake-quantized model.
        split: that they are measured on, None for the validation split.

    Raises:
        UnknownNameError: no such recipe, or it names a layer that does not exist.
        CheckpointError, DataError, QuantizationError, ExportError, OutputError: as their names say.
    """
    from edgeyolo.data.dataset import open_dataset
    from edgeyolo.evaluation.measure import check_classes, measure_session
    from edgeyolo.export import export_model
    from edgeyolo.nn.session import TorchSession
    from edgeyolo.quantization import quantize as quantize_model
    from edgeyolo.quantization.pictures import calibration_pictures
    from edgeyolo.spec.recipe import load_recipe
    from edgeyolo.training.checkpoint import load_checkpoint

    settings = load_recipe(recipe)
    source = load_checkpoint(checkpoint)
    spec = source.record.model
    train_data = open_dataset(data, "train")
    check_classes(spec, train_data)
    pictures, hashes = calibration_pictures(train_data, spec.input, count=settings.count, seed=settings.seed)
    quantized = quantize_model(
        source.model, pictures, settings, recipe_name=Path(recipe).stem, picture_hashes=hashes, progress=progress
    )
    scores: list[Score] = []
    if evaluate:
        dataset = open_dataset(data, split or validation_split(data))
        for artefact, module in (("float torch", quantized.float_deploy), ("fake-quant torch", quantized.fake_quant)):
            scores.append(measure_session(TorchSession(module), spec, dataset, artefact=artefact, progress=progress))
    export_model(quantized, spec, out, checkpoint_sha256=source.sha256, scores=tuple(scores))
    return QuantizeResult(out, tuple(scores), precision_counts(load_qparams(out / "qparams.json")))


def precision_counts(qparams: QParams) -> dict[str, int]:
    """How many layers run in each precision."""
    counts: dict[str, int] = {}
    for layer in qparams.layers.values():
        counts[layer.precision] = counts.get(layer.precision, 0) + 1
    return counts
