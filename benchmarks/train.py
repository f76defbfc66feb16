"""Pictures per second of training: our step and loader in fp32 and bf16 against a plain loop, in turns in one process.

    python benchmarks/train.py --data ../shared/data/bccd [--models yolov7-tiny] [--sizes 320 640] [--rounds 5]

A turn is a short epoch, loader included: fetch, forward, assign, loss, backward, clip, optimizer, moving average. The
plain loop is what PyTorch gives without thinking of speed: the same network in NCHW fp32, one picture after the other
in the assigner, an optimizer and an average that go tensor by tensor, pictures read from disk each time by the process
that trains. The same batches in all of them. Prints a Markdown table and writes it as --out, train.json of the results
if not given.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import msgspec
import torch
from assign import assign_ota_plain
from record import RESULTS, save_result

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.config import resolve
from edgeyolo.training.detector import make_detector_job
from edgeyolo.training.loader import TrainLoader, make_loader
from edgeyolo.training.order import EpochOrder
from edgeyolo.training.run import Run, start_run
from edgeyolo.training.step import normalise, train_step

STEPS = {320: 12, 640: 4}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A way to train: one call of `turn` trains one short epoch."""

    name: str
    turn: Callable[[int], None]


def main() -> None:
    """Measure every size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["yolov7-tiny"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "train.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = {name: value for name, value in vars(args).items() if name not in ("data", "models", "sizes", "out")}
    rows: list[dict[str, object]] = []
    for model, size in itertools.product(args.models, args.sizes):
        rows += measure_model(args, model, size)
        save_result(args.out, {**settings, "rows": rows})
    sys.stdout.write(markdown(rows))


def measure_model(args: argparse.Namespace, model: str, size: int) -> list[dict[str, object]]:
    """Rows of a model at one size: milliseconds per step, pictures per second, and the ratio to the plain loop."""
    steps = STEPS.get(size, 4)
    data = open_dataset(args.data, "train")
    data = dataclasses.replace(data, records=data.records[: steps * args.batch])
    config = TrainConfig(model=model, image_size=size, batch=args.batch, device="cpu", workers=args.workers)
    with tempfile.TemporaryDirectory() as work:
        contestants = [
            _plain(config, data, Path(work) / "plain"),
            *(make_ours(config, data, Path(work) / precision, precision) for precision in ("fp32", "bf16")),
            _loader_alone(config, data),
        ]
        seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
        for round_ in range(args.rounds + 1):  # the first one warms up
            for contestant in contestants:
                started = time.perf_counter()
                contestant.turn(round_)
                if round_:
                    seconds[contestant.name].append((time.perf_counter() - started) / steps)
            sys.stderr.write(f"{model} at {size} px, round {round_} of {args.rounds}\n")
    plain = seconds["plain loop, fp32"]
    rows = []
    for name, times in seconds.items():
        median_ms = 1e3 * statistics.median(times)
        rows.append(
            {
                "model": model,
                "image_size": size,
                "what": name,
                "step_ms": round(median_ms, 1),
                "spread_ms": [round(1e3 * min(times), 1), round(1e3 * max(times), 1)],
                "pictures_per_second": round(1e3 * args.batch / median_ms, 1),
                "of_plain": round(statistics.median(a / b for a, b in zip(times, plain, strict=True)), 3),
            }
        )
    return rows


def make_ours(config: TrainConfig, data: Dataset, out: Path, precision: str) -> Contestant:
    """Our step and loader."""
    config = msgspec.structs.replace(config, precision=precision)
    run = _start(config, data, out)
    loader = _make_loader(config, data, workers=config.workers, cache_mib=config.cache_mib)

    def turn(epoch: int) -> None:
        run.model.train()
        loader.start_epoch(epoch)
        for batch in loader:
            train_step(run, batch)

    return Contestant(f"ours, {precision}", turn)


def _loader_alone(config: TrainConfig, data: Dataset) -> Contestant:
    loader = _make_loader(config, data, workers=config.workers, cache_mib=config.cache_mib)

    def turn(epoch: int) -> None:
        loader.start_epoch(epoch)
        for _ in loader:
            pass

    return Contestant("our loader alone", turn)


def _plain(config: TrainConfig, data: Dataset, out: Path) -> Contestant:
    run = _start(msgspec.structs.replace(config, precision="fp32"), data, out)
    for parameter in run.model.parameters():
        parameter.data = parameter.data.contiguous()
    loader = _make_loader(config, data, workers=0, cache_mib=0)
    optimizer = torch.optim.AdamW(run.network.parameters(), lr=1e-3, weight_decay=config.decay, foreach=False)

    def turn(epoch: int) -> None:
        run.model.train()
        loader.start_epoch(epoch)
        with mock.patch("edgeyolo.criteria.ota.assign_ota", assign_ota_plain):
            for batch in loader:
                _plain_step(run, optimizer, batch.images, batch.targets)

    return Contestant("plain loop, fp32", turn)


def _plain_step(run: Run, optimizer: torch.optim.Optimizer, images: torch.Tensor, targets: torch.Tensor) -> None:
    maps = run.network(normalise(images, run.job.spec.input))
    loss = run.job.loss(maps, targets, images)
    optimizer.zero_grad()
    loss.total.backward()
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), run.config.clip_norm, foreach=False)
    optimizer.step()
    with torch.no_grad():
        for mine, theirs in zip(run.ema.average.state_dict().values(), run.model.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                mine.mul_(0.999).add_(theirs, alpha=0.001)


def _start(config: TrainConfig, data: Dataset, out: Path) -> Run:
    return start_run(make_detector_job(config, data, torch.device("cpu")), resolve(config), data, out)


def _make_loader(config: TrainConfig, data: Dataset, *, workers: int, cache_mib: int) -> TrainLoader:
    return make_loader(
        data,
        EpochOrder(len(data), config.batch, config.seed),
        input_spec=InputSpec(image_hw=(config.image_size, config.image_size)),
        augment=config.augment,
        workers=workers,
        cache_mib=cache_mib,
    )


def markdown(rows: list[dict[str, object]]) -> str:
    """A table of the rows."""
    lines = ["| model | size | what | ms per step | pictures/s | of plain |", "|---|---|---|---|---|---|"]
    keys = ("model", "image_size", "what", "step_ms", "pictures_per_second", "of_plain")
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
