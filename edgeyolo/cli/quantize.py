"""`edgeyolo quantize`: checkpoint -> model.onnx + qparams.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Json, reporting

PLACE = (2, "The way to a board")


def quantize(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint that `edgeyolo train` wrote.")],
    data: Annotated[Path, typer.Option(help="Data set: calibrated on its train split, evaluated on val.")],
    out: Annotated[Path, typer.Option(help="Folder for model.onnx, qparams.json, model.json and the report.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a .toml; `edgeyolo recipes`.")] = "int8-mse",
    qat: Annotated[bool, typer.Option("--qat", help="Train on with quantization in the loop.")] = False,
    max_drop: Annotated[
        float | None, typer.Option(help="AP points that --target may lose; keeps layers float until it holds.")
    ] = None,
    target: Annotated[str, typer.Option(help="Board that --max-drop is about.")] = "host-cpu",
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Measure what each scale group costs.")] = False,
    sensitivity_groups: Annotated[
        int, typer.Option(min=0, help="Groups that --sensitivity also measures by mAP, the most costly first.")
    ] = 8,
    explain: Annotated[bool, typer.Option("--explain", help="Say why each layer is int8 or float; graph.dot.")] = False,
    evaluate: Annotated[bool, typer.Option(help="Measure the float and the fake-quantized model.")] = True,
    report: Annotated[bool, typer.Option(help="Measure engines on this computer; report.html.")] = True,
    split: Annotated[str | None, typer.Option(help="Split to measure on; val if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted --qat or --sensitivity.")] = False,
    json: Json = False,
) -> None:
    """Calibrate a trained model to int8, recover what that costs, export it, and report."""
    with reporting(json=json) as shown:
        from edgeyolo import verbs

        options = verbs.QuantizeOptions(
            evaluate=evaluate,
            report=report and evaluate,
            split=split,
            qat=qat,
            sensitivity=sensitivity,
            sensitivity_groups=sensitivity_groups,
            max_drop=max_drop,
            target=target,
            explain=explain,
            resume=resume,
        )
        with shown.show_progress() as progress:
            result = verbs.quantize(checkpoint, data, out, recipe=recipe, options=options, progress=progress)
        if result.explanation:
            shown.say(result.explanation)
            shown.say(
                f"Drawn by Graphviz: dot -Tsvg {out / 'graph.dot'} -o graph.svg; Netron opens {out / 'model.onnx'}"
            )
        shown.show_table(["layers", "number"], sorted(result.layers.items()))
        if result.scores:
            shown.show_scores(result.scores)
        shown.say(f"Wrote {result.folder} ({', '.join(sorted(path.name for path in result.folder.iterdir()))})")
        shown.say(f"Next: edgeyolo deploy {result.folder} --target host-cpu --out {out.name}.eyb")
        shown.show_json(
            {
                "folder": str(result.folder),
                "layers": result.layers,
                "scores": msgspec.to_builtins(result.scores),
            }
        )
