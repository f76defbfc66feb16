"""`edgeyolo report`: everything that was measured, estimated and published, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.scoreboard import ReportOptions

if TYPE_CHECKING:
    from edgeyolo.spec.figure import ScoreboardRow

PANEL = "The way to a board"


def report(
    console: Console,
    sources: Annotated[
        list[Path],
        typer.Argument(help="Bundles, folders of train and quantize, and what bench, estimate ... say with --json."),
    ],
    options: ReportOptions,
) -> None:
    """Show accuracy, latency and size of many artefacts on one page, and how each number came about."""
    from edgeyolo import verbs

    with console.show_progress() as progress:
        result = verbs.report(sources, options, progress=progress)
    rows = [_cells(row) for row in result.board.rows]
    console.show_table(["model", "engine", "precision", "scored on", "AP", "costs"], rows)
    for note in result.board.notes:
        console.say(note)
    pictures = f", {result.pictures} pictures" if result.pictures else ""
    console.say(f"Wrote {result.page}: {len(rows)} rows{pictures}")
    console.show_json(msgspec.to_builtins(result.board))


def _cells(row: ScoreboardRow) -> tuple[str, ...]:
    scored = ", ".join(filter(None, (row.data, row.split)))
    costs = "; ".join(f"{cost.text} on {cost.source}" for cost in row.costs)
    return (row.model, row.engine, row.precision, scored or "-", "-" if row.ap is None else row.ap.text, costs or "-")
