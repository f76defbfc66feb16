"""`edgeyolo service`: what starts `edgeyolo serve` with the computer, to be looked at and put in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.serving import RecordOptions, ServeOptions, ServiceOptions

PANEL = "On the board"


def service(
    console: Console,
    bundle: Annotated[Path, typer.Argument(help="Bundle that is served.")],
    sources: Annotated[list[str] | None, typer.Argument(help="As for `edgeyolo serve`.")] = None,
    *,
    kind: ServiceOptions,
    thresholds: Thresholds,
    options: ServeOptions,
    recording: RecordOptions,
) -> None:
    """Print a systemd unit, or a Dockerfile, that runs `edgeyolo serve` with these options.

    Nothing is installed: the first lines of what is printed say what to do with it.
    """
    from edgeyolo.live.service import make_dockerfile, make_unit

    make = make_unit if kind.kind == "systemd" else make_dockerfile
    text = make(bundle, sources or [], (thresholds, options, recording))
    console.say(text.rstrip("\n"))
    console.show_json({"kind": kind.kind, "text": text})
