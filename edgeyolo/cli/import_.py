"""`edgeyolo import`: official weights -> a checkpoint, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.importing import ImportOptions

PANEL = "The way to a board"


def import_(
    console: Console,
    file: Annotated[Path, typer.Argument(help="Weights as a family's authors publish them: .pt, .pth or .pdparams.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    options: ImportOptions,
) -> None:
    """Turn official weights into a checkpoint, to be quantized and deployed like one that was trained here."""
    from edgeyolo import verbs

    result = verbs.import_weights(file, out, model=options.model, names=options.names, image_size=options.image_size)
    model, origin = result.model, result.model.origin
    assert origin is not None
    rows = [
        ("model", model.name),
        ("classes", f"{len(model.class_names)}: {', '.join(model.class_names[:6])} ..."),
        ("input", "{} x {}".format(*model.input.image_hw)),
        ("from", f"{origin.source}, {origin.file}"),
        ("licence", origin.licence),
        ("sha256", origin.sha256),
    ]
    console.show_table(["", ""], rows)
    console.say(f"Wrote {result.checkpoint}")
    console.say(f"Next: edgeyolo quantize {out} --data PICTURES --out {out}-int8")
    console.show_json({"checkpoint": str(result.checkpoint), "model": msgspec.to_builtins(model)})
