"""Search for better settings: short runs with settings drawn by Optuna, those that lag behind are cut short.

Everything is in a database, so that a search can be stopped, gone on with, and shared by processes and machines.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeyolo.data.dataset import Dataset
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.errors import OutputError, StoppedError, TrainingError, UsageError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.settings import override_settings
from edgeyolo.spec.training import SearchOptions, TrainConfig
from edgeyolo.training.checkpoint import EpochRow
from edgeyolo.training.config import check_config, peak_learning_rate
from edgeyolo.training.loop import train
from edgeyolo.training.study import give_up_dead, open_study, sign

if TYPE_CHECKING:
    from optuna import Study, Trial

_LOG = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Range:
    """Where a setting is looked for.

    Attributes:
        key: of `TrainConfig`, such as "learning_rate" or "augment.mosaic".
        low, high: both included; whole where the setting is.
        log: drawn by its logarithm.
    """

    key: str
    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        """As `parse_range` reads it."""
        return f"{self.key}={self.low:g}:{self.high:g}{':log' if self.log else ''}"


@dataclass(frozen=True)
class TrialRow:
    """One short run.

    Attributes:
        state: "done", "cut short", "failed" or "running".
        ap: the best of its epochs, percent; None where none is known.
        settings: as text, by key.
    """

    number: int
    state: str
    ap: float | None
    settings: dict[str, str]


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        trials: all of the database, in the order begun.
        best: the one with the highest AP.
        folder: its run, if it was trained into this folder.
    """

    trials: tuple[TrialRow, ...]
    best: TrialRow
    folder: Path | None


def default_ranges(config: TrainConfig) -> list[Range]:
    """What is worth trying around a config: the optimizer's rates, the average, and the augmentations."""
    rate, decay = peak_learning_rate(config), config.decay
    return [
        Range("learning_rate", rate / 10, rate * 5, log=True),
        Range("final_learning_rate_factor", 0.01, 0.3, log=True),
        Range("weight_decay", max(decay, 1e-6) / 10, max(decay, 1e-6) * 5, log=True),
        Range("warmup_epochs", 0.0, 5.0),
        Range("ema_decay", 0.99, 0.9999),
        Range("augment.hsv_s", 0.0, 0.9),
        Range("augment.hsv_v", 0.0, 0.9),
        Range("augment.translate", 0.0, 0.3),
        Range("augment.scale", 0.0, 0.9),
        Range("augment.mosaic", 0.0, 1.0),
        Range("augment.mixup", 0.0, 0.3),
        Range("augment.copy_paste", 0.0, 0.5),
    ]


def parse_range(text: str) -> Range:
    """`KEY=LOW:HIGH` or `KEY=LOW:HIGH:log` as a range; whether the key takes it is for `check_ranges`.

    Raises:
        UsageError: it is not written so, or the ends are not in order.
    """
    where, hint = f"--vary {text}", "Write it as --vary learning_rate=1e-4:1e-2:log"
    key, equals, bounds = text.partition("=")
    low_text, *rest = bounds.split(":")
    if not (key and equals and rest) or rest[1:] not in ([], ["log"]):
        raise UsageError("is not KEY=LOW:HIGH or KEY=LOW:HIGH:log", where=where, hint=hint)
    try:
        low, high = float(low_text), float(rest[0])
    except ValueError:
        raise UsageError("LOW and HIGH must be numbers", where=where, hint=hint) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError("LOW must be below HIGH", where=where, hint=hint)
    if rest[1:] and low <= 0:
        raise UsageError("a logarithm needs LOW above 0", where=where, hint=hint)
    return Range(key, low, high, log=bool(rest[1:]))


def check_ranges(config: TrainConfig, ranges: Sequence[Range]) -> None:
    """Raise UsageError for a key that does not exist or is no number, an end it cannot have, or one that is twice."""
    if not ranges:
        raise UsageError("nothing to search", hint="Give --vary KEY=LOW:HIGH")
    keys = [each.key for each in ranges]
    for each in ranges:
        if keys.count(each.key) > 1:
            raise UsageError("is given twice", where=f"--vary {each.key}", hint="Give one range for each key")
        for end in (each.low, each.high):
            try:
                check_config(override_settings(config, {each.key: _text(config, each.key, end)}))
            except UsageError as error:
                raise UsageError(error.what, where=f"--vary {each}", hint=error.hint) from None


def search(
    config: TrainConfig,
    splits: tuple[Dataset, Dataset],
    out: Path,
    options: SearchOptions,
    *,
    progress: Progress = SILENT,
) -> SearchResult:
    """Train short runs, each with its own settings, and say which were best.

    A run is cut short when its best AP so far is below the median of the others at the same epoch. Finished and cut
    runs of the database count, whoever made them, so that the same call goes on with a search that was stopped. A run
    whose loss runs away counts as one with AP 0.

    Args:
        config: of every run, but for the settings that are searched.
        out: folder for the runs, `search.csv` and `best.toml`, and for the database where no `storage` is given.
        splits: to train and to measure on.
        options: what is varied, `default_ranges` if nothing is named; its database is shared with other processes.

    Raises:
        UsageError: a range or the config cannot be used, the storage cannot be opened or is of another search.
        MissingPackageError: Optuna, or what it needs for this storage, is not installed.
        DataError, OutputError, StoppedError: as `train`.
    """
    ranges = [parse_range(text) for text in options.vary] or default_ranges(config)
    check_config(config)
    check_ranges(config, ranges)
    study = open_study(
        f"{config.model} on {splits[0].name}",
        _identity(config, ranges),
        options.storage,
        out,
        seed=config.seed,
        least_epochs=config.epochs // 3,
    )
    runner = _TrialRunner(config, ranges, splits, out, options.trials, progress)
    while (done := _count(study, "COMPLETE", "PRUNED")) < options.trials:
        progress.step("search", done, options.trials, _best_text(study))
        give_up_dead(study)
        if _count(study, "COMPLETE", "PRUNED", "RUNNING") >= options.trials:
            time.sleep(_PAUSE_SECONDS)  # other processes have the rest, and may die
            continue
        _run_one(study, runner)
        _keep_results(study, out, all_runs=options.keep_all)
    _keep_results(study, out, all_runs=options.keep_all)  # of what other processes did since, too
    progress.step("search", options.trials, options.trials, _best_text(study))
    rows = _rows(study)
    best = next(row for row in rows if row.number == study.best_trial.number)
    folder = _trial_folder(out, best.number)
    return SearchResult(tuple(rows), best, folder if folder.is_dir() else None)


def _run_one(study: Study, runner: _TrialRunner) -> None:
    from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

    try:
        study.optimize(runner, n_trials=1, catch=(_SurplusError,))
    except UpdateFinishedTrialError:
        _LOG.warning("another process has given up a trial of this one, which showed no sign of life for too long")
    except StorageInternalError as error:
        raise OutputError(f"the database of the search cannot be written ({error})", where=runner.out) from None


class _SurplusError(Exception):
    """As many trials as are wanted were begun by others at the same moment."""


class _TrialRunner:
    """Trains one trial; what Optuna calls."""

    def __init__(
        self,
        config: TrainConfig,
        ranges: Sequence[Range],
        splits: tuple[Dataset, Dataset],
        out: Path,
        trials: int,
        progress: Progress,
    ) -> None:
        self.config, self.ranges, self.splits, self.out, self.progress = config, ranges, splits, out, progress
        self.trials = trials

    def __call__(self, trial: Trial) -> float:
        """The best AP of a run with the settings that the trial suggests.

        Raises:
            optuna.TrialPruned: it lags behind.
        """
        from optuna import TrialPruned

        sign(trial)
        earlier = trial.study.get_trials(deepcopy=False)[: trial.number]
        if sum(each.state.name != "FAIL" for each in earlier) >= self.trials:
            raise _SurplusError
        best_ap = 0.0

        def report(history: Sequence[EpochRow]) -> None:
            nonlocal best_ap
            row = history[-1]
            if row.ap is None:
                return
            best_ap = max(best_ap, row.ap)
            trial.report(best_ap, row.epoch)
            if row.epoch < self.config.epochs and trial.should_prune():
                raise TrialPruned

        config = override_settings(self.config, {each.key: self._suggest(trial, each) for each in self.ranges})
        folder = _trial_folder(self.out, trial.number)
        progress = _NamedProgress(self.progress, f"trial {trial.number}")
        try:
            train(config, self.splits, folder, progress=progress, on_epoch=report)
        except StoppedError:
            raise
        except TrainingError as error:
            _LOG.warning("trial %d: %s", trial.number, error)
            return 0.0
        return best_ap

    def _suggest(self, trial: Trial, each: Range) -> str:
        if _is_whole(self.config, each.key):
            return str(trial.suggest_int(each.key, int(each.low), int(each.high), log=each.log))
        return repr(trial.suggest_float(each.key, each.low, each.high, log=each.log))


class _NamedProgress:
    """Puts a name before each stage."""

    def __init__(self, inner: Progress, name: str) -> None:
        self._inner, self._name = inner, name

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Pass it on."""
        self._inner.step(f"{self._name}, {stage}", done, total, text)


def toml_of(row: TrialRow) -> str:
    """The settings of a trial as TOML, sections last."""
    plain = [f"{key} = {value}" for key, value in row.settings.items() if "." not in key]
    sections: dict[str, list[str]] = {}
    for key, value in row.settings.items():
        section, _, field = key.rpartition(".")
        if section:
            sections.setdefault(section, []).append(f"{field} = {value}")
    parts = [f"[{name}]\n" + "\n".join(lines) for name, lines in sections.items()]
    heading = f"# AP {row.ap:.2f} in trial {row.number}" if row.ap is not None else f"# trial {row.number}"
    return "\n\n".join(["\n".join([heading, *plain]), *parts]) + "\n"


def _identity(config: TrainConfig, ranges: Sequence[Range]) -> str:
    """What must be the same for trials to be compared; where and with how many processes they run need not."""
    same = msgspec.structs.replace(config, device="auto", workers=1, cache_mib=2048)
    return msgspec.json.encode([same, sorted(str(each) for each in ranges)]).decode()


def _value(config: TrainConfig, key: str) -> object:
    values: Any = msgspec.to_builtins(config)
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _is_whole(config: TrainConfig, key: str) -> bool:
    return isinstance(_value(config, key), int)


def _text(config: TrainConfig, key: str, end: float) -> str:
    """An end of a range as the setting takes it.

    Raises:
        UsageError: the setting is no number, or a whole one and the end is not.
    """
    value = _value(config, key)
    if isinstance(value, bool | str | dict | list | tuple):
        raise UsageError("is not a number", hint="Set it with --set")
    if isinstance(value, int):
        if end != int(end):
            raise UsageError("must be whole", hint="Give whole numbers as LOW and HIGH")
        return str(int(end))
    return repr(end)


def _trial_folder(out: Path, number: int) -> Path:
    return out / f"trial-{number:04d}"


def _count(study: Study, *states: str) -> int:
    return sum(trial.state.name in states for trial in study.get_trials(deepcopy=False))


def _best_text(study: Study) -> str:
    rows = [row for row in _rows(study) if row.state == "done" and row.ap is not None]
    return f"best AP {max(row.ap or 0.0 for row in rows):.2f}" if rows else ""


def _rows(study: Study) -> list[TrialRow]:
    states = {"COMPLETE": "done", "PRUNED": "cut short", "FAIL": "failed"}
    rows = []
    for trial in study.get_trials(deepcopy=False):
        ap = trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=None)
        settings = {key: repr(value) for key, value in trial.params.items()}
        rows.append(TrialRow(trial.number, states.get(trial.state.name, "running"), ap, settings))
    return rows


def _remove_all_but_best(study: Study, out: Path) -> None:
    """Of the runs that are over; another process may still be writing to one that is not."""
    best = study.best_trial.number if any(row.state == "done" for row in _rows(study)) else -1
    for row in _rows(study):
        if row.state != "running" and row.number != best:
            shutil.rmtree(_trial_folder(out, row.number), ignore_errors=True)


def _keep_results(study: Study, out: Path, *, all_runs: bool) -> None:
    if not all_runs:
        _remove_all_but_best(study, out)
    rows = _rows(study)
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    lines = [",".join(["trial", "state", "ap", *keys])]
    for row in rows:
        ap = "" if row.ap is None else f"{row.ap:.4f}"
        lines.append(",".join([str(row.number), row.state, ap, *(row.settings.get(key, "") for key in keys)]))
    write_file(out / "search.csv", ("\n".join(lines) + "\n").encode())
    done = [row for row in rows if row.state == "done"]
    if done:
        best = next(row for row in done if row.number == study.best_trial.number)
        write_file(out / "best.toml", toml_of(best).encode())
