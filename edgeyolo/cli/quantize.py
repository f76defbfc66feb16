"""`edgeyolo quantize`: checkpoint -> model.onnx + qparams.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli._report import Json, reporting

PLACE = (2, "The way to a board")


def quantize(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint that `edgeyolo train` wrote.")],
    data: Annotated[Path, typer.Option(help="Data set: calibrated on its train split, evaluated on val.")],
    out: Annotated[Path, typer.Option(help="Folder for model.onnx, qparams.json and model.json.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a .toml; `edgeyolo recipes`.")] = "int8-mse",
    evaluate: Annotated[bool, typer.Option(help="Measure the float and the fake-quantized model.")] = True,
    json: Json = False,
) -> None:
    """Calibrate a trained model to int8 and export it."""
    with reporting(json=json) as report:
        from edgeyolo import verbs

        with report.show_progress() as progress:
            result = verbs.quantize(checkpoint, data, out, recipe=recipe, evaluate=evaluate, progress=progress)
        report.show_table(["layers", "number"], sorted(result.layers.items()))
        if result.scores:
            report.show_scores(result.scores)
        report.say(f"Wrote {result.folder} (model.onnx, qparams.json, model.json)")
        report.say(f"Next: edgeyolo deploy {result.folder} --target host-cpu --out {out.name}.eyb")
        report.show_json(
            {"folder": str(result.folder), "layers": result.layers, "scores": msgspec.to_builtins(result.scores)}
        )
