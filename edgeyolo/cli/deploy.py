"""`edgeyolo deploy`: a quantized folder or a float checkpoint -> one bundle for one board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Json, reporting

PLACE = (3, "The way to a board")


def deploy(
    source: Annotated[Path, typer.Argument(help="Folder from `edgeyolo quantize`, or a float checkpoint.")],
    target: Annotated[str, typer.Option(help="Name of a board, or a .toml; `edgeyolo targets` lists them.")],
    out: Annotated[Path, typer.Option(help="Bundle to write, such as cells.eyb.")],
    precision: Annotated[
        str | None, typer.Option(help="int8, fp16, bf16 or fp32; the board's best if not given.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data set to evaluate the bundle on, here.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data; val if not given.")] = None,
    json: Json = False,
) -> None:
    """Build the bundle that a board runs."""
    with reporting(json=json) as report:
        from edgeyolo import verbs

        with report.show_progress() as progress:
            result = verbs.deploy(source, target, out, precision=precision, data=data, split=split, progress=progress)
        artefact = result.manifest.artefact
        layers = ", ".join(f"{count} {kind}" for kind, count in sorted(artefact.layers.items()))
        report.say(
            f"{artefact.engine} {artefact.engine_version}, {artefact.precision} ({layers or 'all layers alike'})"
        )
        if result.manifest.scores:
            report.show_scores(result.manifest.scores)
        size_mib = result.bundle.stat().st_size / 2**20
        report.say(f"Wrote {result.bundle} ({size_mib:.2f} MiB) for {result.manifest.target}")
        report.say(f"Next: copy it to the board and run: edgeyolo detect {result.bundle.name} PICTURES --save out")
        if "trtexec" in artefact.files:
            from edgeyolo.bundle import open_bundle

            with open_bundle(result.bundle) as opened:
                command = (opened.folder / artefact.files["trtexec"]).read_text().strip()
            report.say(f"The board builds its plan when it first loads the bundle; by hand it is: {command}")
        report.show_json({"bundle": str(result.bundle), "manifest": msgspec.to_builtins(result.manifest)})
