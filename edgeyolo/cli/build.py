"""`edgeyolo build`: what a bundle's engine builds on this computer, before the first start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeyolo.cli.console import Console

PANEL = "On the board"


def build(
    console: Console,
    bundle: Annotated[Path, typer.Argument(help="Bundle that `edgeyolo deploy` wrote.")],
) -> None:
    """Make a bundle ready on this computer: TensorRT's plan, OpenVINO's compiled network.

    It is kept, and every later start takes it from there; `build` again finds that there is nothing to do.
    """
    from edgeyolo import verbs

    with console.show_progress() as progress:
        result = verbs.build(bundle, progress=progress)
    for path in result.made:
        console.say(f"Built {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    if not result.made:
        console.say("It was built already" if result.builds else f"{result.engine} builds nothing on the board")
    console.say(f"Ready in {result.open_s:.1f} s, the first picture in {result.first_ms:.0f} ms")
    console.say(f"Next: edgeyolo detect {bundle} PICTURES --save out")
    console.show_json(
        {
            "bundle": str(bundle),
            "engine": result.engine,
            "made": [str(path) for path in result.made],
            "builds": result.builds,
            "open_s": result.open_s,
            "first_ms": result.first_ms,
        }
    )
