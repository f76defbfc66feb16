"""`edgeyolo evaluate`: accuracy of a bundle or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.boards import HostOptions
from edgeyolo.spec.deploying import EvaluateOptions
from edgeyolo.spec.machine import is_first_process

PANEL = "The way to a board"


def evaluate(
    console: Console,
    source: Annotated[Path, typer.Argument(help="Bundle (or its folder), checkpoint, or folder with a model.onnx.")],
    data: Annotated[Path, typer.Option(help="Data set.")],
    options: EvaluateOptions,
    hosts: HostOptions,
) -> None:
    """Measure accuracy, here or on boards (COCO definitions, AP in percent)."""
    from edgeyolo import verbs
    from edgeyolo.cli import _boards

    if hosts.host:
        _boards.evaluate_on_hosts(console, source, data, options, hosts)
        return

    with console.show_progress() as progress:
        score = verbs.evaluate(
            source,
            data,
            split=options.split,
            threads=options.threads,
            nms=options.nms,
            record=options.record,
            reference=options.reference,
            score_threshold=options.score_threshold,
            match=options.match,
            device=options.device,
            progress=progress,
        )
    if not is_first_process():
        return  # the first process of several speaks for all
    console.show_scores([score])
    console.show_table(["class", "AP"], sorted(score.per_class.items()))
    transfer = verbs.transfer_of(source)
    if transfer is not None:
        console.show_transfer(transfer)
    if options.record:
        console.say(f"Wrote the score into {source}")
    console.show_json(msgspec.to_builtins(score) | {"transfer": msgspec.to_builtins(transfer)})
