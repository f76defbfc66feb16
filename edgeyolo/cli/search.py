"""`edgeyolo search`: pictures -> better settings for `edgeyolo train`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgeyolo.cli.console import Console
from edgeyolo.cli.flags import Shown
from edgeyolo.spec.training import SEARCH_DEFAULTS, SearchOptions, TrainConfig

PANEL = "The way to a board"

_SHOWN = Shown("model", "epochs", "image_size", "batch", "seed", "workers", "device", **SEARCH_DEFAULTS)


def search(
    console: Console,
    data: Annotated[Path, typer.Option(help="YOLO data.yaml, COCO JSON or VOC folder, recognised by itself.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and what was found; the same one goes on.")],
    options: SearchOptions,
    config: Annotated[TrainConfig, _SHOWN],
) -> None:
    """Search for better training settings in many short runs."""
    from edgeyolo import verbs

    with console.show_progress() as progress:
        result = verbs.search(config, data, out, options, progress=progress)
    ranked = sorted(result.trials, key=lambda row: -1.0 if row.ap is None else row.ap, reverse=True)
    keys = list(result.best.settings)
    rows = [
        (r.number, r.state, "" if r.ap is None else r.ap, *(_short(r.settings.get(k)) for k in keys))
        for r in ranked[:10]
    ]
    console.show_table(["trial", "state", "AP", *keys], rows, title="The ten best")
    console.say(f"Wrote {out / 'search.csv'} and {out / 'best.toml'}")
    command = f"edgeyolo train --model {config.model} --data {data} --out {out}-train --config {out / 'best.toml'}"
    console.say(f"Next: {command}")
    console.show_json(
        {
            "best": asdict(result.best),
            "folder": None if result.folder is None else str(result.folder),
            "trials": [asdict(row) for row in result.trials],
        }
    )


def _short(value: str | None) -> str:
    return "" if value is None else f"{float(value):.4g}"
