"""The training loop, told as a story: make or resume a run, train an epoch, evaluate, save, repeat."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from edgeyolo.data.dataset import Dataset
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import StoppedError
from edgeyolo.spec.model import Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import CheckpointRecord, EpochRow
from edgeyolo.training.config import check_config, resolve
from edgeyolo.training.device import choose_device
from edgeyolo.training.distributed import find_world, joined, noticing_loss, own_device
from edgeyolo.training.job import Job
from edgeyolo.training.jobs import make_job
from edgeyolo.training.loader import augmentation_of, make_loader, own_share
from edgeyolo.training.log import TensorBoardLog, csv_text, progress_text
from edgeyolo.training.optim import learning_rate_at, set_schedule
from edgeyolo.training.order import make_order
from edgeyolo.training.run import BEST, LAST, Run, read_saved, start_run
from edgeyolo.training.scoring import score_together
from edgeyolo.training.step import check_numbers, train_step
from edgeyolo.training.stop import StopNow, StoppingProgress, StopRequest, heeding_signals
from edgeyolo.training.torch_session import TorchSession

Listener = Callable[[Sequence[EpochRow]], None]

_READ_EVERY = 10  # steps between looks at a GPU's losses: each look waits for it


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        best: checkpoint of the epoch with the highest AP on the validation split.
        last: checkpoint of the last epoch, which also serves `resume`.
        epochs: epochs trained, of this run and the ones it resumed.
        score: of the best epoch.
        best_epoch: counted from 1; 0 where a job counts its start, and no epoch was better.
        start: score before training, of a job that counts it.
        history: one row per epoch.
    """

    best: Path
    last: Path
    epochs: int
    score: Score | None
    best_epoch: int
    start: Score | None
    history: tuple[EpochRow, ...]


def train(
    config: TrainConfig,
    splits: tuple[Dataset, Dataset],
    out: Path,
    *,
    weights: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
    on_epoch: Listener | None = None,
) -> TrainResult:
    """Train a model and write `best` and `last` checkpoints and a log to `out`.

    On every process that `torchrun` starts it takes part in one run. SIGTERM and Ctrl-C end it after the step that is
    going on; the last checkpoint then holds the middle of the epoch.

    Args:
        splits: to train and to measure on.
        weights: checkpoint to start from, of our own or as a model's authors publish it; what does not fit, such as
            the head of other classes, is made anew.
        resume: go on from `out`'s last checkpoint, with its config but for the device, as if never interrupted.
        on_epoch: called with the history after each epoch of this call, once it is saved; what it raises ends the run.

    Raises:
        UsageError: a config value that cannot be used, or `out` holds a run already and `resume` is False.
        DataError: nothing to train on. CheckpointError: nothing to resume, or weights of another model.
        TrainingError: the loss is not a number, or memory runs out. OutputError: `out` cannot be written.
        StoppedError: by a signal, or because another process of the run is lost; the run can be resumed.
    """

    def make(config: TrainConfig, device: torch.device, record: CheckpointRecord | None) -> Job:
        return make_job(config, splits[0], device, weights=weights, record=record)

    return train_job(make, config, splits, out, resume=resume, progress=progress, on_epoch=on_epoch)


def train_job(
    make: Callable[[TrainConfig, torch.device, CheckpointRecord | None], Job],
    config: TrainConfig,
    splits: tuple[Dataset, Dataset],
    out: Path,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
    on_epoch: Listener | None = None,
) -> TrainResult:
    """Train a job; as `train` otherwise, which is this with the job that the model is for.

    Args:
        make: the job for a config, on a device; told the record of the run that is to be resumed, if one is.
    """
    check_config(config)
    train_data, val_data = splits
    world = find_world()
    device = choose_device(own_device(config.device, world))
    with heeding_signals() as stop, joined(world, device), noticing_loss(world, out / LAST):
        saved = world.by_first(lambda: read_saved(out, train_data, resume=resume))
        record = saved.record if saved else None
        config = msgspec.structs.replace(record.config, device=config.device) if record else resolve(config)
        run = start_run(make(config, device, record), config, train_data, out, saved=saved, world=world)
        story = Story(run, train_data, val_data, progress if world.is_first else SILENT, stop)
        with contextlib.closing(story), contextlib.ExitStack() as stack:
            listeners = [on_epoch] if on_epoch is not None else []
            if run.config.tensorboard and world.is_first:
                board = stack.enter_context(TensorBoardLog(out / "tensorboard", done=run.epoch))
                listeners.insert(0, board.add)
            story.train_to_the_end(listeners)
        world.any(False)  # all have come this far: what the first one wrote is there
    return TrainResult(out / BEST, run.last, run.epoch, run.best, run.best_epoch, run.start, tuple(run.history))


class Story:
    """A run from where it stands to its end."""

    def __init__(
        self, run: Run, train_data: Dataset, val_data: Dataset, progress: Progress, stop: StopRequest | None = None
    ) -> None:
        self.run = run
        self.val_data = val_data
        self.progress = progress
        self.stop = StopRequest() if stop is None else stop
        self.order = make_order(run.config, run.job.spec, train_data, run.world.rank, run.world.size)
        self.loader = make_loader(
            train_data,
            self.order,
            input_spec=run.job.spec.input,
            augment=augmentation_of(run.config, train_data),
            workers=run.config.workers,
            cache_mib=run.config.cache_mib // run.world.local_size,
            cache_folder=cache_folder("pictures") if run.config.cache_on_disk else None,
        )

    def close(self) -> None:
        """End the loader's processes."""
        self.loader.close()

    def train_to_the_end(self, listeners: Sequence[Listener] = ()) -> None:
        """Train epoch after epoch, and let the listeners know of each; errors as `train`."""
        run = self.run
        if run.job.counts_start and run.start is None:
            self.measure_start()
        while run.epoch < run.config.epochs and not has_stalled(run):
            started = time.perf_counter()
            losses = self.train_epoch()
            score = self.evaluate_epoch()
            seconds = time.perf_counter() - started
            finish_epoch(run, losses, score, seconds, steps_per_epoch=len(self.loader))
            for listen in listeners:
                listen(run.history)
            if run.epoch < run.config.epochs and run.world.any(bool(self.stop)):
                raise self.stopped()

    def measure_start(self) -> None:
        """The score that an epoch has to beat."""
        self.run.start = self.measure()
        self.run.note_score(self.run.start)
        self.run.save_last(self.run.start)

    def train_epoch(self) -> dict[str, float]:
        """What is left of one pass over the training split; returns the mean of each loss part over all of it."""
        run, config, steps = self.run, self.run.config, len(self.loader)
        run.start_training()
        self.order.first_step = run.step
        self.loader.start_epoch(run.epoch, mosaic=run.epoch < config.last_mosaic_epoch)
        run.job.start_epoch(run.epoch)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=run.device))
        sums.update({name: torch.tensor(value, device=run.device) for name, value in run.sums.items()})
        started, text = time.perf_counter(), ""
        for index, batch in enumerate(self.loader, start=run.step):
            set_schedule(run.optimizer, run.epoch * steps + index, config, steps_per_epoch=steps)
            torch.manual_seed(_step_seed(run, index))
            for name, value in train_step(run, own_share(batch, self.order.share)).items():
                sums[name] += value
            if run.device.type == "cpu" or index % _READ_EVERY == 0 or index + 1 == steps or not text:
                text = self.describe(sums, index + 1, time.perf_counter() - started)
            self.progress.step(f"{run.job.stage} {run.epoch + 1}/{config.epochs}", index + 1, steps, text)
            if run.world.any(bool(self.stop)):
                self.save_middle(index + 1, sums)
                raise self.stopped()
        check_numbers(run)
        self.run.step, self.run.sums = steps, _as_floats(sums, run)
        return {name: value / steps for name, value in self.run.sums.items()}

    def describe(self, sums: dict[str, Tensor], done: int, seconds: float) -> str:
        """The latest figures after `done` steps of the epoch, of which this call took `seconds`."""
        run, steps = self.run, len(self.loader)
        per_step = seconds / max(1, done - run.step)
        per_epoch = run.history[-1].seconds if run.history else steps * per_step
        return progress_text(
            {name: float(value) / done for name, value in sums.items()},
            best_ap=run.best_ap,
            pictures_per_second=self.order.batch / per_step,
            seconds_left=(steps - done) * per_step + (run.config.epochs - run.epoch - 1) * per_epoch,
        )

    def save_middle(self, step: int, sums: dict[str, Tensor]) -> None:
        """Save the state after some steps of an epoch, to be resumed from there."""
        check_numbers(self.run)
        self.run.step, self.run.sums = step, _as_floats(sums, self.run)
        self.run.save_last(None)

    def stopped(self) -> StoppedError:
        """What is said when a signal has ended the run."""
        epochs = f"{self.run.epoch} of {self.run.config.epochs} epochs"
        steps = f" and {self.run.step} of {len(self.loader)} steps" if self.run.step else ""
        return StoppedError(
            f"stopped by {self.stop.name or 'a signal to another process'} after {epochs}{steps}",
            where=self.run.last,
            hint="Everything is saved; go on with --resume",
        )

    def evaluate_epoch(self) -> Score | None:
        """The score after an epoch, None when it is not due."""
        run, done = self.run, self.run.epoch + 1
        if done % run.config.evaluate_every and done < run.config.epochs:
            return None
        run.save_last(None)  # whatever measuring meets, the epoch is not lost
        return self.measure()

    def measure(self) -> Score:
        """The score of the averaged weights in deploy form."""
        run, data = self.run, self.val_data
        run.world.copy_from_first(run.ema.average.buffers())
        session = TorchSession(run.job.deploy_form(run.ema.average), device=run.device)
        progress = self.progress if run.world.is_shared else StoppingProgress(self.progress, self.stop)
        try:
            return score_together(session, run.job.spec, data, run.world, artefact=run.job.artefact, progress=progress)
        except StopNow:
            raise self.stopped() from None


def has_stalled(run: Run) -> bool:
    """Whether `patience` epochs have passed without a better AP."""
    return 0 < run.config.patience <= run.epoch - run.best_epoch


def finish_epoch(
    run: Run, losses: dict[str, float], score: Score | None, seconds: float, *, steps_per_epoch: int
) -> None:
    """Add the epoch to the history and save what it made."""
    row = EpochRow(
        epoch=run.epoch + 1,
        losses=losses,
        learning_rate=learning_rate_at(
            (run.epoch + 1) * steps_per_epoch - 1, run.config, steps_per_epoch=steps_per_epoch
        ),
        seconds=round(seconds, 2),
        ap=score.ap if score else None,
        ap50=score.ap50 if score else None,
    )
    run.history.append(row)
    run.step, run.sums = 0, {}
    if score is not None and run.note_score(score):
        run.save_best()
    run.save_last(score)
    if run.world.is_first:
        write_file(run.out / "log.csv", csv_text(run.history).encode())


def _step_seed(run: Run, index: int) -> int:
    """Of torch's random numbers in a step: known from its place, so that none need be saved."""
    place = [run.config.seed, run.epoch, index, run.world.rank]
    return int(np.random.SeedSequence(place).generate_state(1)[0])


def _as_floats(sums: dict[str, Tensor], run: Run) -> dict[str, float]:
    return {name: float(run.world.mean(value)) for name, value in sums.items()}
