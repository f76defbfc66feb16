"""`edgeyolo evaluate`: accuracy of a bundle or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Json, reporting

PLACE = (4, "The way to a board")


def evaluate(
    source: Annotated[Path, typer.Argument(help="Bundle (or its folder), or checkpoint.")],
    data: Annotated[Path, typer.Option(help="Data set.")],
    split: Annotated[str | None, typer.Option(help="Split of the data set; its validation split if not given.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Engine threads, 0 for the bundle's own number.")] = 0,
    record: Annotated[bool, typer.Option("--record", help="Write the score into the bundle's manifest.")] = False,
    json: Json = False,
) -> None:
    """Measure accuracy (COCO definitions, AP in percent)."""
    with reporting(json=json) as report:
        from edgeyolo import verbs

        with report.show_progress() as progress:
            score = verbs.evaluate(source, data, split=split, threads=threads, record=record, progress=progress)
        report.show_scores([score])
        report.show_table(["class", "AP"], sorted(score.per_class.items()))
        if record:
            report.say(f"Wrote the score into {source}")
        report.show_json(msgspec.to_builtins(score))
