"""`edgeyolo train`: pictures -> checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.cli.flags import Shown
from edgeyolo.spec.training import TrainConfig, TrainOptions

PANEL = "The way to a board"

_SHOWN = Shown(
    "model",
    "epochs",
    "image_size",
    "batch",
    "optimizer",
    "learning_rate",
    "teacher",
    "activation",
    "seed",
    "workers",
    "device",
    "precision",
    "patience",
)


def train(
    console: Console,
    data: Annotated[Path, typer.Option(help="YOLO data.yaml, COCO JSON or VOC folder, recognised by itself.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the record of the run.")],
    config: Annotated[TrainConfig, _SHOWN],
    options: TrainOptions,
) -> None:
    """Train a detector on labelled pictures."""
    from edgeyolo import verbs
    from edgeyolo.training.distributed import find_world

    with console.show_progress() as progress:
        result = verbs.train(
            config,
            data,
            out,
            weights=options.weights,
            resume=options.resume,
            report=options.report,
            progress=progress,
        )
    if not find_world().is_first:
        return  # the first process of a distributed run speaks for all
    if result.score is not None:
        console.show_scores([result.score])
    console.say(f"Wrote {result.best} (best) and {result.last} (last)")
    if (out / "train.html").exists():
        console.say(f"Look at {out / 'train.html'}")
    console.say(f"Next: edgeyolo quantize {result.best} --data {data} --out {out}-int8")
    console.show_json(
        {
            "best": str(result.best),
            "last": str(result.last),
            "epochs": result.epochs,
            "score": msgspec.to_builtins(result.score),
        }
    )
