"""`edgeyolo tune`: pictures -> better settings for `edgeyolo train`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgeyolo.cli.console import Json, reporting
from edgeyolo.cli.train import parse_overrides

PLACE = (1.5, "The way to a board")


def tune(
    model: Annotated[str, typer.Option(help="Name of a model; `edgeyolo models` lists them.")],
    data: Annotated[Path, typer.Option(help="YOLO data.yaml, COCO JSON or VOC folder, recognised by itself.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and what was found; the same one goes on.")],
    trials: Annotated[int, typer.Option(min=1, help="Short runs in all, those done before included.")] = 30,
    epochs: Annotated[int, typer.Option(min=1, help="Of each run.")] = 20,
    image_size: Annotated[int, typer.Option(min=32, help="Side of the square network input, pixels.")] = 320,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per step.")] = 8,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=LOW:HIGH[:log]",
            help="A setting to search, such as learning_rate=1e-4:1e-2:log; again for more. None: the optimizer's "
            "rates, the average and the augmentations.",
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Database that machines share; SQLite in --out if not given.")
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep every run, not only the best.")] = False,
    seed: Annotated[int, typer.Option(help="Of the search, and of every run.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the training config, for every run."),
    ] = None,
    json: Json = False,
) -> None:
    """Search for better training settings in many short runs."""
    with reporting(json=json) as report:
        overrides = parse_overrides(set_ or [])
        from edgeyolo import verbs
        from edgeyolo.spec.training import TrainConfig
        from edgeyolo.training.config import override_config
        from edgeyolo.training.search import parse_range

        ranges = [parse_range(text) for text in search or []]
        config = TrainConfig(
            model=model, epochs=epochs, image_size=image_size, batch=batch, seed=seed, workers=workers, device=device
        )
        config = override_config(config, overrides)
        with report.show_progress() as progress:
            result = verbs.tune(
                config, data, out, ranges=ranges, trials=trials, storage=storage, keep_all=keep_all, progress=progress
            )
        ranked = sorted(result.trials, key=lambda row: -1.0 if row.ap is None else row.ap, reverse=True)
        keys = list(result.best.settings)
        rows = [
            (r.number, r.state, "" if r.ap is None else r.ap, *(_short(r.settings.get(k)) for k in keys))
            for r in ranked[:10]
        ]
        report.show_table(["trial", "state", "AP", *keys], rows, title="The ten best")
        chosen = " ".join(f"--set {key}={value}" for key, value in result.best.settings.items())
        report.say(f"Wrote {out / 'search.csv'} and {out / 'best.toml'}")
        report.say(f"Next: edgeyolo train --model {model} --data {data} --out {out}-train {chosen}")
        report.show_json(
            {
                "best": asdict(result.best),
                "folder": None if result.folder is None else str(result.folder),
                "trials": [asdict(row) for row in result.trials],
            }
        )


def _short(value: str | None) -> str:
    return "" if value is None else f"{float(value):.4g}"
