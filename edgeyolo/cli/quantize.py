"""`edgeyolo quantize`: checkpoint -> model.onnx + qparams.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.calibration_finding import CalibrationFinding
from edgeyolo.spec.errors import CalibrationError, UsageError
from edgeyolo.spec.quantizing import QuantizeOptions
from edgeyolo.spec.recipe import DEFAULT_RECIPE

PANEL = "The way to a board"


def quantize(
    console: Console,
    checkpoint: Annotated[
        Path, typer.Argument(help="Checkpoint, or a folder that `edgeyolo import` made of an ONNX file.")
    ],
    data: Annotated[Path, typer.Option(help="Data set: calibrated on its train split, evaluated on val.")],
    options: QuantizeOptions,
    out: Annotated[
        Path | None, typer.Option(help="Folder for model.onnx, qparams.json, model.json and the report.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a .toml; `edgeyolo recipes`.")] = DEFAULT_RECIPE,
) -> None:
    """Calibrate a trained model to int8, recover what that costs, export it, and report."""
    from edgeyolo import verbs
    from edgeyolo.training.distributed import find_world

    if options.check_only:
        _check_only(console, verbs.check_calibration(checkpoint, data, recipe=recipe, accept=options.accept))
        return
    if out is None:
        raise UsageError("no folder to write to is given", hint="Give --out, or --check-only")
    with console.show_progress() as progress:
        result = verbs.quantize(checkpoint, data, out, recipe=recipe, options=options, progress=progress)
    if not find_world().is_first:
        return  # the first process of several speaks for all
    if result.explanation:
        console.say(result.explanation)
        console.say(f"Drawn by Graphviz: dot -Tsvg {out / 'graph.dot'} -o graph.svg; Netron opens {out / 'model.onnx'}")
    console.show_table(["layers", "number"], sorted(result.layers.items()))
    if result.scores:
        console.show_scores(result.scores)
    console.say(f"Wrote {result.folder} ({', '.join(sorted(path.name for path in result.folder.iterdir()))})")
    console.say(f"Next: edgeyolo deploy {result.folder} --target host-cpu --out {out.name}.eyb")
    console.show_json(
        {
            "folder": str(result.folder),
            "layers": result.layers,
            "scores": msgspec.to_builtins(result.scores),
            "findings": msgspec.to_builtins(result.findings),
        }
    )


def _check_only(console: Console, findings: Sequence[CalibrationFinding]) -> None:
    """The exit code is a gate's where something is refused."""
    cells = [(one.fault, one.verdict, one.value, one.limit, f"{one.what}. {one.hint}") for one in findings]
    if findings:
        console.show_table(["finding", "", "measured", "limit", "what to do"], cells)
    else:
        console.say("Nothing is wrong with the pictures to calibrate on.")
    console.show_json({"findings": msgspec.to_builtins(findings)})
    if any(one.verdict == "refused" for one in findings):
        console.exit_code = CalibrationError.exit_code
