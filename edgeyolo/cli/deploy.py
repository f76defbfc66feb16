"""`edgeyolo deploy`: a quantized folder or a float checkpoint -> one bundle for one board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.deploying import DeployGates, DeployOptions

PANEL = "The way to a board"


def deploy(
    console: Console,
    source: Annotated[
        Path, typer.Argument(help="Folder from `quantize`, or from `import` of an .onnx, or a checkpoint.")
    ],
    target: Annotated[str, typer.Option(help="Name of a board or program, or a .toml; `edgeyolo targets` lists them.")],
    out: Annotated[Path, typer.Option(help="Bundle to write, such as cells.eyb; for another program, a folder.")],
    options: DeployOptions,
    gates: DeployGates,
) -> None:
    """Build the bundle that a board runs."""
    from edgeyolo import verbs

    if gates.require_licence == "permissive":
        verbs.check_licence(source)
    with console.show_progress() as progress:
        result = verbs.deploy(
            source,
            target,
            out,
            precision=options.precision,
            nms=options.nms,
            data=options.data,
            split=options.split,
            progress=progress,
        )
    artefact = result.manifest.artefact
    layers = ", ".join(f"{count} {kind}" for kind, count in sorted(artefact.layers.items()))
    console.say(f"{artefact.engine} {artefact.engine_version}, {artefact.precision} ({layers or 'all layers alike'})")
    if result.manifest.scores:
        console.show_scores(result.manifest.scores)
    is_folder = result.bundle.is_dir()  # for another program, whose steps are among the notes
    files = [*result.bundle.iterdir()] if is_folder else [result.bundle]
    size_mib = sum(file.stat().st_size for file in files) / 2**20
    console.say(f"Wrote {result.bundle} ({size_mib:.2f} MiB) for {result.manifest.target}")
    if not is_folder:
        console.say(f"Next: copy it to the board and run: edgeyolo detect {result.bundle.name} PICTURES --save out")
    for note in result.notes:
        console.say(note)
    console.show_json({"bundle": str(result.bundle), "manifest": msgspec.to_builtins(result.manifest)})
