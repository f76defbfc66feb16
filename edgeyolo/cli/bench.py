"""`edgeyolo bench`: how long a bundle takes, here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgeyolo.cli._report import Json, reporting

PLACE = (6, "On the board")


def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `edgeyolo deploy` wrote.")],
    image: Annotated[Path | None, typer.Option(help="Picture to time it on; noise if not given.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Calls that are timed.")] = 100,
    warmup: Annotated[int, typer.Option(min=0, help="Calls before, that are not.")] = 10,
    threads: Annotated[int, typer.Option(min=0, help="Engine threads, 0 for the bundle's own number.")] = 0,
    json: Json = False,
) -> None:
    """Time a bundle on this computer: before, in and after the network."""
    with reporting(json=json) as report:
        import numpy as np

        from edgeyolo.data.image_file import read_image
        from edgeyolo.runtime import Detector
        from edgeyolo.runtime.clock import Clock
        from edgeyolo.spec.machine import processor_name

        with Detector.load(bundle, threads=threads) as detector, report.show_progress() as progress:
            if image is None:
                noise_hwc = (*detector.spec.input.image_hw, 3)
                picture = np.random.default_rng(0).integers(0, 256, noise_hwc).astype(np.uint8)
            else:
                picture = read_image(image)
            clock = Clock()
            for run in range(warmup + runs):
                detector.detect(picture)
                if run >= warmup:
                    clock.add(detector.timing)
                progress.step("bench", run + 1, warmup + runs)
        spread = clock.spread()
        rows = [(part, times.median_ms, times.p90_ms) for part, times in spread.items()]
        report.show_table(["part", "median ms", "p90 ms"], rows)
        threads_text = f"{threads} threads" if threads else "the bundle's own threads"
        report.say(f"{runs} runs after {warmup} of warm-up, {threads_text}, on {processor_name()}")
        report.show_json(
            {
                "bundle": str(bundle),
                "device": processor_name(),
                "threads": threads,
                "runs": runs,
                "warmup": warmup,
                "picture_hw": [picture.shape[0], picture.shape[1]],
                "spread": {part: asdict(times) for part, times in spread.items()},
            }
        )
