"""`edgeyolo estimate`: how long a network takes on boards that are not here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.latency import EstimateOptions

if TYPE_CHECKING:
    from edgeyolo.spec.latency import Estimate

PANEL = "The way to a board"


def estimate(
    console: Console,
    source: Annotated[
        Path, typer.Argument(help="Bundle, folder from `edgeyolo quantize`, checkpoint, or name of a model.")
    ],
    options: EstimateOptions,
) -> None:
    """Say how long a network takes on a board before you have it, as a range."""
    from edgeyolo import verbs

    with console.show_progress() as progress:
        result = verbs.estimate(source, options, progress=progress)
    rows = [(one.title, *describe(one)) for one in result.estimates]
    console.show_table(["board", "precision", "threads", "from ms", "to ms", "middle", "how"], rows)
    console.say(f"{result.model}, {result.gflops:.1f} GFLOPs: the network alone, for one picture, undisturbed.")
    for note in result.notes:
        console.say(note)
    if options.plot is not None:
        from edgeyolo.report.latency import write_ranges

        write_ranges(options.plot, result.estimates, title=result.model)
        console.say(f"Wrote {options.plot}")
    console.say("Next, once you have the board: edgeyolo bench BUNDLE, there")
    console.show_json(
        {
            "source": str(source),
            "model": result.model,
            "gflops": result.gflops,
            "here": None if result.here is None else asdict(result.here),
            "estimates": [msgspec.to_builtins(one) for one in result.estimates],
            "notes": list(result.notes),
        }
    )


def describe(one: Estimate) -> tuple[str, ...]:
    """Precision, threads, least and most milliseconds, the middle, and how it was made."""
    how = f"estimated, {one.method}, from what was {' and '.join(one.rests_on)}; {one.coverage:.0%} in the range"
    numbers = map(show_ms, (one.low_ms, one.high_ms, one.middle_ms))
    return (one.precision, str(one.threads or ""), *numbers, how)


def show_ms(ms: float) -> str:
    """Milliseconds with two or three digits that say something."""
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"
