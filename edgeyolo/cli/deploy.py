"""`edgeyolo deploy`: a quantized folder or a float checkpoint -> one bundle for one board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.boards import InstallOptions
from edgeyolo.spec.deploying import DeployGates, DeployOptions
from edgeyolo.spec.errors import UsageError

PANEL = "The way to a board"


def deploy(
    console: Console,
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder from `quantize`, or from `import` of an .onnx, or a checkpoint; with --host a bundle, too."
        ),
    ],
    options: DeployOptions,
    gates: DeployGates,
    hosts: InstallOptions,
    target: Annotated[
        str, typer.Option(help="Name of a board or program, or a .toml; `edgeyolo targets` lists them.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Bundle to write, such as cells.eyb; for another program, a folder.")
    ] = None,
) -> None:
    """Build the bundle that a board runs, and put it in its place there."""
    from edgeyolo.cli import _boards

    if hosts.rollback:
        if not hosts.host:
            raise UsageError("--rollback goes back on a board", hint="Name it: --host user@board")
        _boards.roll_back_on_hosts(console, source, hosts)
    elif hosts.host and source.suffix == ".eyb":
        _boards.install_on_hosts(console, source, hosts)
    elif not target or out is None:
        raise UsageError(f"no --{'out' if target else 'target'} is given", hint="Give both --target and --out")
    else:
        _build(console, source, target, out, options, gates, is_last=not hosts.host)
        if hosts.host:
            _boards.install_on_hosts(console, out, hosts)


def _build(
    console: Console, source: Path, target: str, out: Path, options: DeployOptions, gates: DeployGates, *, is_last: bool
) -> None:
    from edgeyolo import verbs

    if gates.require_licence == "permissive":
        verbs.check_licence(source)
    with console.show_progress() as progress:
        result = verbs.deploy(
            source,
            target,
            out,
            image_size=options.image_size,
            batch=options.batch,
            precision=options.precision,
            nms=options.nms,
            data=options.data,
            split=options.split,
            score_threshold=options.score_threshold,
            match=options.match,
            reference=options.reference,
            progress=progress,
        )
    artefact = result.manifest.artefact
    layers = ", ".join(f"{count} {kind}" for kind, count in sorted(artefact.layers.items()))
    console.say(f"{artefact.engine} {artefact.engine_version}, {artefact.precision} ({layers or 'all layers alike'})")
    if result.manifest.scores:
        console.show_scores(result.manifest.scores)
    if result.manifest.transfer is not None:
        console.show_transfer(result.manifest.transfer)
    is_folder = result.bundle.is_dir()  # for another program, whose steps are among the notes
    files = [*result.bundle.iterdir()] if is_folder else [result.bundle]
    size_mib = sum(file.stat().st_size for file in files) / 2**20
    console.say(f"Wrote {result.bundle} ({size_mib:.2f} MiB) for {result.manifest.target}")
    for note in result.notes:
        console.say(note)
    if is_last and not is_folder:
        console.say(f"Next: copy it to the board and run: edgeyolo detect {result.bundle.name} PICTURES --save out")
    if is_last:
        console.show_json({"bundle": str(result.bundle), "manifest": msgspec.to_builtins(result.manifest)})
