"""`edgeyolo train`: pictures -> checkpoint."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Json, reporting
from edgeyolo.spec.errors import UsageError

PLACE = (1, "The way to a board")


class Optimizer(str, Enum):
    """Choices of `TrainConfig.optimizer`."""

    adamw = "adamw"
    sgd = "sgd"


class Precision(str, Enum):
    """Choices of `TrainConfig.precision`."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def train(
    model: Annotated[str, typer.Option(help="Name of a model; `edgeyolo models` lists them.")],
    data: Annotated[Path, typer.Option(help="YOLO data.yaml, COCO JSON or VOC folder, recognised by itself.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the record of the run.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 60,
    image_size: Annotated[int, typer.Option(min=32, help="Side of the square network input, pixels.")] = 640,
    batch: Annotated[str, typer.Option(metavar="N", help="Pictures per step; auto for what memory allows.")] = "8",
    optimizer: Annotated[Optimizer, typer.Option(help="AdamW suits short runs, SGD long ones.")] = Optimizer.adamw,
    learning_rate: Annotated[float | None, typer.Option(help="Peak; the optimizer's default if not given.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Start from a checkpoint, or official .pt or .pdparams.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint of a larger model that teaches this one.")] = None,
    activation: Annotated[str | None, typer.Option(help="silu, leaky_relu, relu, hardswish; the model's own.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Of the forward pass.")] = Precision.auto,
    patience: Annotated[int, typer.Option(min=0, help="Stop after this many epochs without gain; 0 never.")] = 0,
    show: Annotated[
        bool, typer.Option("--report/--no-report", help="Write train.html: curves, confusion, pictures.")
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other field of the training config, such as augment.mosaic=0."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a detector on labelled pictures."""
    with reporting(json=json) as report:
        overrides = parse_overrides(set_ or [])
        from edgeyolo import verbs
        from edgeyolo.spec.training import TrainConfig
        from edgeyolo.training.config import override_config

        config = TrainConfig(
            model=model,
            activation=activation,
            epochs=epochs,
            image_size=image_size,
            batch=_parse_batch(batch),
            optimizer=optimizer.value,
            learning_rate=learning_rate,
            patience=patience,
            device=device,
            precision=precision.value,
            seed=seed,
            workers=workers,
            teacher=None if teacher is None else str(teacher),
        )
        config = override_config(config, overrides)
        with report.show_progress() as progress:
            result = verbs.train(config, data, out, weights=weights, resume=resume, report=show, progress=progress)
        if os.environ.get("RANK", "0") != "0":
            return  # the first process of a distributed run speaks for all
        if result.score is not None:
            report.show_scores([result.score])
        report.say(f"Wrote {result.best} (best) and {result.last} (last)")
        if (out / "train.html").exists():
            report.say(f"Look at {out / 'train.html'}")
        report.say(f"Next: edgeyolo quantize {result.best} --data {data} --out {out}-int8")
        report.show_json(
            {
                "best": str(result.best),
                "last": str(result.last),
                "epochs": result.epochs,
                "score": msgspec.to_builtins(result.score),
            }
        )


def _parse_batch(text: str) -> int:
    """A number of pictures; 0 for `auto`.

    Raises:
        UsageError: neither.
    """
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise UsageError("is neither a number of pictures nor auto", where=f"--batch {text}", hint="Write --batch 8")
    return int(text)


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """`["key=value"]` as a dictionary.

    Raises:
        UsageError: an entry without "=".
    """
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError("is not KEY=VALUE", where=f"--set {pair}", hint="Write it as --set momentum=0.9")
        overrides[key] = value
    return overrides
