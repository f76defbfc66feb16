"""The training loop, told as a story: make or resume a run, train an epoch, evaluate, save, repeat."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeyolo.data.dataset import Dataset
from edgeyolo.nn.channels_last import use_channels_last
from edgeyolo.nn.fold import fold_model
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import StoppedError
from edgeyolo.spec.model import Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import EpochRow, read_tensors
from edgeyolo.training.config import check_config
from edgeyolo.training.device import choose_device
from edgeyolo.training.distributed import find_world, joined, noticing_loss, own_device
from edgeyolo.training.faults import StopNow, StoppingProgress, StopRequest, heeding_signals
from edgeyolo.training.loader import Batch, make_loader
from edgeyolo.training.log import TensorBoardLog, progress_text, write_log
from edgeyolo.training.optim import learning_rate_at, set_schedule
from edgeyolo.training.order import EpochOrder, input_sizes, repeat_factors
from edgeyolo.training.run import Run as Run
from edgeyolo.training.run import start_run as start_run
from edgeyolo.training.step import normalise as normalise
from edgeyolo.training.step import train_step as train_step

_READ_EVERY = 10  # steps between looks at a GPU's losses: each look waits for it


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        best: checkpoint of the epoch with the highest AP on the validation split.
        last: checkpoint of the last epoch, which also serves `resume`.
        epochs: epochs trained, of this run and the ones it resumed.
        score: of the best epoch.
    """

    best: Path
    last: Path
    epochs: int
    score: Score | None


def train(
    config: TrainConfig,
    train_data: Dataset,
    val_data: Dataset,
    out: Path,
    *,
    weights: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
    on_epoch: Callable[[EpochRow], None] | None = None,
) -> TrainResult:
    """Train a detector and write `best` and `last` checkpoints, a log and a picture of its curves to `out`.

    On every process that `torchrun` starts it takes part in one run. SIGTERM and Ctrl-C end it after the step that is
    going on; the last checkpoint then holds the middle of the epoch.

    Args:
        weights: checkpoint to start from, of our own or as a model's authors publish it; what does not fit, such as
            the head of other classes, is made anew.
        resume: go on from `out`'s last checkpoint, with its config, as if never interrupted.
        on_epoch: called after each epoch of this call, once it is saved; what it raises ends the run.

    Raises:
        UsageError: a config value that cannot be used, or `out` holds a run already and `resume` is False.
        DataError: nothing to train on. CheckpointError: nothing to resume, or weights of another model.
        TrainingError: the loss is not a number, or memory runs out. OutputError: `out` cannot be written.
        StoppedError: by a signal, or because another process of the run is lost; the run can be resumed.
    """
    check_config(config)
    world = find_world()
    with (
        joined(world, choose_device(own_device(config.device, world))),
        noticing_loss(world, out / "last.safetensors"),
        heeding_signals() as stop,
    ):
        run = start_run(config, train_data, out, weights=weights, resume=resume, world=world)
        story = Story(run, train_data, val_data, progress if world.is_first else SILENT, stop)
        with contextlib.closing(story), contextlib.ExitStack() as stack:
            heard = [on_epoch] if on_epoch is not None else []
            if run.config.tensorboard and world.is_first:
                board = stack.enter_context(TensorBoardLog(out / "tensorboard", done=run.epoch))
                heard.insert(0, board.add)
            story.tell(heard)
        world.any(False)  # all have come this far: what the first one wrote is there
    best = out / "best.safetensors"
    _, record = read_tensors(best)
    return TrainResult(best, run.last, run.epoch, record.score)


class Story:
    """A run from where it stands to its end."""

    def __init__(
        self, run: Run, train_data: Dataset, val_data: Dataset, progress: Progress, stop: StopRequest | None = None
    ) -> None:
        self.run = run
        self.val_data = val_data
        self.progress = progress
        self.stop = StopRequest() if stop is None else stop
        self.order = make_order(run, train_data)
        self.loader = make_loader(
            train_data,
            input_spec=run.spec.input,
            batch=run.config.batch,
            augment=run.config.augment,
            seed=run.config.seed,
            workers=run.config.workers,
            cache_mib=run.config.cache_mib // run.world.local_size,
            cache_folder=cache_folder("pictures") if run.config.cache_on_disk else None,
            order=self.order,
        )

    def close(self) -> None:
        """End the loader's processes."""
        self.loader.close()

    def tell(self, heard: Sequence[Callable[[EpochRow], None]] = ()) -> None:
        """Train epoch after epoch, and tell each to those who want to hear of it; errors as `train`."""
        while self.run.epoch < self.run.config.epochs and not has_stalled(self.run):
            started = time.perf_counter()
            losses = self.train_epoch()
            score = self.evaluate_epoch()
            seconds = time.perf_counter() - started
            finish_epoch(self.run, losses, score, seconds, steps_per_epoch=len(self.loader))
            for hear in heard:
                hear(self.run.history[-1])
            if self.run.epoch < self.run.config.epochs and self.run.world.any(bool(self.stop)):
                raise self.stopped()

    def train_epoch(self) -> dict[str, float]:
        """What is left of one pass over the training split; returns the mean of each loss part over all of it."""
        run, config, steps = self.run, self.run.config, len(self.loader)
        run.start_training()
        self.order.first_step = run.step
        self.loader.start_epoch(run.epoch, mosaic=run.epoch < config.last_mosaic_epoch)
        run.criterion.start_epoch(run.epoch)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=run.device))
        sums.update({name: torch.tensor(value, device=run.device) for name, value in run.sums.items()})
        started = time.perf_counter()
        for index, batch in enumerate(self.loader, start=run.step):
            set_schedule(run.optimizer, run.epoch * steps + index, config, steps_per_epoch=steps)
            torch.manual_seed(_step_seed(run, index))
            for name, value in train_step(run, own_share(batch, self.order.share)).items():
                sums[name] += value
            if run.device.type == "cpu" or index % _READ_EVERY == 0 or index + 1 == steps:
                text = self.describe(sums, index + 1, time.perf_counter() - started)
            self.progress.step(f"epoch {run.epoch + 1}/{config.epochs}", index + 1, steps, text)
            if run.world.any(bool(self.stop)):
                self.save_middle(index + 1, sums)
                raise self.stopped()
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
        """COCO mAP of the averaged weights in deploy form, by the runtime that ships; None when it is not due.

        Every process takes its share of the pictures; the first one scores them.
        """
        run, data = self.run, self.val_data
        done = run.epoch + 1
        if done % run.config.evaluate_every and done < run.config.epochs:
            return None
        from edgeyolo.evaluation.coco_map import detect_pictures, score_detections
        from edgeyolo.evaluation.measure import make_detector
        from edgeyolo.training.torch_session import TorchSession

        run.world.copy_from_first(run.ema.average.buffers())
        folded = fold_model(run.ema.average)
        use_channels_last(folded)
        detector = make_detector(TorchSession(folded, device=run.device), run.spec, data)
        pictures = range(run.world.rank, len(data), run.world.size)
        progress = self.progress if run.world.is_shared else StoppingProgress(self.progress, self.stop)
        try:
            found = detect_pictures(detector.detect, data, pictures, progress=progress)
        except StopNow:
            run.save_last(None)
            raise self.stopped() from None
        together = {i: seen for part in run.world.collect(found) for i, seen in part.items()}
        score = score_detections(together, data, artefact="float torch") if run.world.is_first else None
        return run.world.tell(score)


def make_order(run: Run, data: Dataset) -> EpochOrder:
    """The order of a run's pictures, or of this process's share of them."""
    config = run.config
    repeats = (
        repeat_factors([r.class_ids for r in data.records], config.class_balance) if config.class_balance else None
    )
    stride = max(run.spec.decode.strides)
    return EpochOrder(
        len(data),
        config.batch,
        config.seed,
        repeats=repeats,
        sizes=input_sizes(config.image_size, config.multi_scale, stride),
        rank=run.world.rank,
        world_size=run.world.size,
    )


def own_share(batch: Batch, share: int) -> Batch:
    """The batch without the picture that stands in where a process has none."""
    if len(batch.images) <= share:
        return batch
    return Batch(batch.images[:share], batch.targets[batch.targets[:, 0] < share], batch.image_ids[:share])


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
    if score is not None and (score.ap > run.best_ap or run.best_epoch == 0):
        run.best_ap, run.best_epoch = score.ap, run.epoch
        run.save_best(score)
    run.save_last(score)
    if run.world.is_first:
        write_log(run.out, run.history)


def _step_seed(run: Run, index: int) -> int:
    """Of torch's random numbers in a step: known from its place, so that none need be saved."""
    place = [run.config.seed, run.epoch, index, run.world.rank]
    return int(np.random.SeedSequence(place).generate_state(1)[0])


def _as_floats(sums: dict[str, Tensor], run: Run) -> dict[str, float]:
    return {name: float(run.world.mean(value)) for name, value in sums.items()}
