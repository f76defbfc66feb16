"""`quantize` of a graph that `import` made of an ONNX file -> the same folder with qparams.json, and its scores."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeyolo.spec.atomic import check_replaceable, replacing_folder, write_file
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelRecord, Score
from edgeyolo.spec.progress import Progress
from edgeyolo.spec.qparams import CalibrationRecord, save_qparams
from edgeyolo.spec.quantizing import QUANTIZED_FILES, QuantizeOptions
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.spec.sizes import image_hw_of, image_size_of
from edgeyolo.spec.strict import encode_json, load_json
from edgeyolo.verbs._artefacts import measure_built
from edgeyolo.verbs._deploy import check_onnx
from edgeyolo.verbs._examine import examine_pictures, tell_findings
from edgeyolo.verbs._splits import open_held_out, open_scored_data, open_training_data, opener_of

if TYPE_CHECKING:
    from edgeyolo.data.dataset import Dataset
    from edgeyolo.quantization.foreign import QuantizedGraph

_REFERENCE = "host-onnx"


def is_graph(source: Path) -> bool:
    """Whether it is a folder of a model.onnx and no checkpoint."""
    return (source / "model.onnx").is_file() and (source / "model.json").is_file()


def quantize_imported(
    source: Path, data: Path, out: Path, recipe: str, options: QuantizeOptions, progress: Progress
) -> tuple[tuple[Score, ...], dict[str, int], str]:
    """Calibrate an imported graph and write it with its scales to `out`.

    Returns:
        Scores of the float and the int8 graph in ONNX Runtime, layers by precision, and the explanation if asked for.

    Raises:
        UsageError: an option that needs a network of torch. Otherwise as `quantize`.
    """
    from edgeyolo.evaluation.tasks.detection import check_classes
    from edgeyolo.graph.qdq import load_onnx
    from edgeyolo.quantization.calibrate.pictures import calibration_pictures
    from edgeyolo.quantization.foreign import check_recipe, quantize_graph

    settings = load_recipe(recipe)
    _check_options(options, source)
    check_recipe(settings, where=source)
    check_replaceable(out, QUANTIZED_FILES, sources=(source, data))
    record = load_json(source / "model.json", ModelRecord)
    image_hw = record.model.input.image_hw
    if options.image_size is not None and image_hw_of(options.image_size) != image_hw:
        hint = "Import the file again with --image-size"
        raise UsageError(f"its graph is for {image_size_of(image_hw)} pixels", where=source, hint=hint)
    check_onnx(source, record)
    opener = opener_of(record.model)
    train_data, choice_data = open_training_data(data, opener)
    if options.needs_labels:
        check_classes(record.model, train_data)
    pictures, hashes = calibration_pictures(train_data, record.model.input, count=settings.count, seed=settings.seed)
    model = load_onnx(source / "model.onnx")
    name = Path(recipe).stem
    made = CalibrationRecord(recipe=name, method="ptq", count=len(hashes), seed=settings.seed, pictures=hashes)
    if options.doctor:
        held_out = open_held_out(data, choice_data, opener)
        examined = examine_pictures(None, pictures, record.model.input, held_out, options.accept)
        tell_findings(examined.findings)
        made = msgspec.structs.replace(made, findings=examined.findings)
    quantized = quantize_graph(model, record, pictures, settings, made, where=source, progress=progress)
    scored = open_scored_data(data, options.split, choice_data, opener)
    raw = (source / "model.onnx").read_bytes()
    scores = _measure(raw, record, quantized, scored, progress) if options.evaluate else ()
    with replacing_folder(out, names=QUANTIZED_FILES) as folder:
        _write(folder, raw, msgspec.structs.replace(record, scores=scores), quantized)
    explanation = _explain(quantized, out, record.model.name) if options.explain else ""
    layers = dict(Counter(str(layer.precision) for layer in quantized.qparams.layers.values()))
    return scores, layers, explanation


def _check_options(options: QuantizeOptions, source: Path) -> None:
    asked = {
        "--qat": options.qat,
        "--max-drop": options.max_drop is not None,
        "--sensitivity": options.sensitivity,
    }
    for flag, is_asked in asked.items():
        if is_asked:
            raise UsageError(
                f"{flag} needs a network that torch computes, and this is an imported ONNX graph",
                where=source,
                hint="Quantize without it; layers are kept float with `float_layers` of a recipe",
            )


def _write(folder: Path, raw: bytes, record: ModelRecord, quantized: QuantizedGraph) -> None:
    (folder / "model.onnx").write_bytes(raw)
    (folder / "model.json").write_bytes(encode_json(record))
    save_qparams(quantized.qparams, folder / "qparams.json")


def _measure(
    raw: bytes, record: ModelRecord, quantized: QuantizedGraph, dataset: Dataset, progress: Progress
) -> tuple[Score, ...]:
    """Of the float graph and of the int8 one."""
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        _write(Path(work), raw, record, quantized)
        return tuple(
            measure_built(Path(work), _REFERENCE, precision, dataset, progress=progress)
            for precision in ("fp32", "int8")
        )


def _explain(quantized: QuantizedGraph, out: Path, title: str) -> str:
    """`graph.dot` in the folder `out`, and the same in words."""
    from edgeyolo.quantization.placement.explain import explain
    from edgeyolo.report.graph import graph_dot

    deploy, placement = quantized.structure.graph_module, quantized.placement
    write_file(out / "graph.dot", graph_dot(deploy, placement, title).encode())
    return str(explain(placement, deploy, quantized.scales))
