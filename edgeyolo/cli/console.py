"""How a verb speaks: tables and text for people, one JSON object for programs, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import json as json_format
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import typer
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.model import Score
from edgeyolo.spec.transfer import Comparison, ScoreTransfer

_WIDE = 200  # columns of a table that goes to a file or a pipe


class Console:
    """Output of one verb.

    Args:
        json: JSON goes to stdout, and what people read to stderr.
    """

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.people = _open_console(stderr=json)
        self.errors = _open_console(stderr=True)
        self.exit_code = 0

    def say(self, text: str) -> None:
        """Print lines for people."""
        self.people.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning on stderr."""
        self.errors.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def show_table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
        """Print a table; columns whose cells are all numbers stand to the right."""
        table = Table(title=title or None, title_justify="left")
        for i, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        self.people.print(table, markup=False, highlight=False)

    def show_scores(self, scores: Sequence[Score]) -> None:
        """Print one row per artefact that was measured."""
        columns = ["artefact", "split", "images", "boxes", "AP", "AP50", "AP75", "AP small", "medium", "large"]
        rows = [
            (s.artefact, s.split, s.images, s.boxes, s.ap, s.ap50, s.ap75, s.ap_small, s.ap_medium, s.ap_large)
            for s in scores
        ]
        self.show_table(columns, rows)

    def show_transfer(self, transfer: ScoreTransfer) -> None:
        """Print what stands for the user's threshold of the float model in each class, and what both find there."""
        title = (
            f"Thresholds of {transfer.artefact} with the {transfer.match} of the float model at "
            f"{transfer.score_threshold:g}, on {transfer.images} pictures of {transfer.data}, {transfer.split}"
        )
        columns = ["class", "threshold", "precision: float", "same number", "transferred"]
        columns += ["recall: float", "same number", "transferred"]
        rows = [_transfer_cells(name, row, transfer) for name, row in transfer.per_class.items()]
        self.show_table(columns, [*rows, _transfer_cells("all", transfer.overall, transfer)], title=title)

    def show_json(self, value: object) -> None:
        """Print the one machine-readable result, if it was asked for."""
        if self.json:
            sys.stdout.write(json_format.dumps(value, indent=2) + "\n")
            sys.stdout.flush()

    def show_json_line(self, value: object) -> None:
        """Print one machine-readable line of several, if they were asked for."""
        if self.json:
            sys.stdout.write(json_format.dumps(value) + "\n")
            sys.stdout.flush()

    def fail(self, error: EdgeYoloError) -> None:
        """Print an error; the verb will exit with its code."""
        self.errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        self.exit_code = error.exit_code

    def show_progress(self) -> ShownProgress:
        """A progress display on stderr, for a `with` block."""
        return ShownProgress(self.errors)


class ShownProgress:
    """A `Progress` on stderr: a bar for the stage that runs, one line for each that is done."""

    def __init__(self, console: RichConsole) -> None:
        self._console = console
        self._stage = ""
        self._task: TaskID | None = None
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> ShownProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Move the bar of `stage`; at its end replace it by a line."""
        if stage != self._stage or self._task is None:
            self._remove_bar()
            self._stage, self._task = stage, self._bars.add_task(stage, total=total or None, text=text)
        self._bars.update(self._task, completed=done, total=total or None, text=text)
        if total and done >= total:
            self._remove_bar()
            line = f"{stage}: {done}/{total} {text}".rstrip()
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _remove_bar(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


@contextlib.contextmanager
def speaking(*, json: bool) -> Iterator[Console]:
    """Run a verb's body: its errors become one message on stderr (and a JSON object), and an exit code.

    Set EDGEYOLO_TRACEBACK=1 to see where an error comes from.

    Raises:
        typer.Exit: with the code of the error, or of a failure that the verb reported.
    """
    console = Console(json=json)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        yield console
    except (KeyboardInterrupt, BrokenPipeError, typer.Exit, typer.Abort):
        raise
    except EdgeYoloError as error:
        _raise_if_tracing()
        console.fail(error)
        console.show_json({"error": _error_record(error)})
    except Exception as error:
        _raise_if_tracing()
        what = f"{type(error).__name__}: {error}"
        console.errors.print(f"error: unexpected {what}", style="red", markup=False, highlight=False, soft_wrap=True)
        console.errors.print("This is a bug in edgeyolo. Set EDGEYOLO_TRACEBACK=1 to see where.", markup=False)
        console.show_json({"error": {"kind": type(error).__name__, "what": str(error), "where": "", "hint": ""}})
        console.exit_code = 1
    if console.exit_code:
        raise typer.Exit(console.exit_code)


def _error_record(error: EdgeYoloError) -> dict[str, Any]:
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}


def _raise_if_tracing() -> None:
    if os.environ.get("EDGEYOLO_TRACEBACK") == "1":
        raise


def _open_console(*, stderr: bool) -> RichConsole:
    console = RichConsole(stderr=stderr)
    return console if console.is_terminal else RichConsole(stderr=stderr, width=_WIDE)


def _transfer_cells(name: str, row: Comparison, transfer: ScoreTransfer) -> list[object]:
    points = (row.float_model, row.untransferred, row.transferred)
    found = transfer.maps.get(name)
    threshold = "" if row.transferred.threshold < 0 else f"{row.transferred.threshold:.3f}"
    if found and found.is_pooled:
        threshold += " (of all classes: too few objects)"
    return [name, threshold, *(point.precision for point in points), *(point.recall for point in points)]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
