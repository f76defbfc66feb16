"""`edgeyolo data`: what was recorded -> a data set to correct and train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.serving import RecordingsOptions

PANEL = "The way to a board"


def data(
    console: Console,
    way: Annotated[Literal["from-recordings"], typer.Argument(help="What it is made from.")],
    folder: Annotated[Path, typer.Argument(help="Folder that `edgeyolo serve --record` filled.")],
    options: RecordingsOptions,
) -> None:
    """Make a data set in YOLO layout from recordings, with the detections as proposals.

    Correct the labels in any program that reads YOLO's, then train on the folder. Pictures are linked where the disk
    allows it, so that they take no more room.
    """
    from edgeyolo.live.recorded import make_dataset

    with console.show_progress() as progress:
        made = make_dataset(folder, options, progress)
    counts = ", ".join(f"{count} {split}" for split, count in made.counts.items())
    console.say(f"Wrote {made.index}: {counts}, {made.boxes} boxes proposed")
    console.say(f"Next: correct {options.out}/labels, then: edgeyolo train --model yolov7-tiny --data {options.out}")
    console.show_json({"data": str(made.index), "pictures": made.counts, "boxes": made.boxes})
