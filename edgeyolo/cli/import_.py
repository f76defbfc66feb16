"""`edgeyolo import`: official weights, or an ONNX detector of others -> what quantize and deploy take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.importing import ImportOptions

if TYPE_CHECKING:
    from edgeyolo.spec.model import ModelSpec

PANEL = "The way to a board"


def import_(
    console: Console,
    file: Annotated[
        Path,
        typer.Argument(
            help="Weights as a family's authors publish them (.pt, .pth, .pdparams, .weights), or a detector as .onnx."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, or for model.onnx and model.json.")],
    options: ImportOptions,
) -> None:
    """Turn official weights, or a detector as ONNX, into what is quantized and deployed like a model trained here."""
    from edgeyolo import verbs

    if file.suffix == verbs.ONNX_SUFFIX:
        _import_graph(console, file, out, options)
        return
    if options.head is not None or options.describe is not None:
        raise UsageError("--head and --describe are for ONNX files", where=file, hint="Leave them out")
    result = verbs.import_weights(
        file, out, model=options.model, names=options.names, image_size=options.image_size, cfg=options.cfg
    )
    _show(console, result.model)
    console.say(f"Wrote {result.checkpoint}")
    _say_next(console, out)
    console.show_json({"checkpoint": str(result.checkpoint), "model": msgspec.to_builtins(result.model)})


def _import_graph(console: Console, file: Path, out: Path, options: ImportOptions) -> None:
    from edgeyolo import verbs

    result = verbs.import_graph(file, out, options)
    _show(console, result.model)
    rows = [(guess.what, guess.value, guess.why) for guess in result.guesses]
    console.show_table(["guessed", "as", "by"], rows)
    if rows:
        console.say("What is wrong of it is put right with --describe FILE.toml: see docs/foreign-onnx.md")
    console.say(f"Wrote {out / 'model.onnx'} and {out / 'model.json'}")
    _say_next(console, out)
    guesses = [{"what": guess.what, "value": guess.value, "why": guess.why} for guess in result.guesses]
    console.show_json({"folder": str(out), "model": msgspec.to_builtins(result.model), "guesses": guesses})


def _show(console: Console, model: ModelSpec) -> None:
    origin = model.origin
    assert origin is not None
    more = " ..." if len(model.class_names) > 6 else ""
    rows = [
        ("model", model.name),
        ("classes", f"{len(model.class_names)}: {', '.join(model.class_names[:6])}{more}"),
        ("input", "{} x {}".format(*model.input.image_hw)),
        ("from", f"{origin.source}, {origin.file}"),
        ("licence", origin.licence),
        ("sha256", origin.sha256),
    ]
    console.show_table(["", ""], rows)


def _say_next(console: Console, out: Path) -> None:
    console.say(f"Next: edgeyolo quantize {out} --data PICTURES --out {out}-int8")
