"""Optuna's study behind a search: one database that several processes and machines share, whichever of them die."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeyolo.spec.errors import MissingPackageError, OutputError, UsageError
from edgeyolo.spec.lock import locked, remove_if_free

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

_BEFORE_PRUNING = 5  # whole trials that the others are compared with
_IDENTITY = "edgeyolo"  # attribute of a study that says what it is about
_PROCESS = "process"  # attribute of a trial that says whose it is
_SIGN_SECONDS, _GRACE_SECONDS = 10, 60  # how often a process shows that it lives, and after how long it is given up
_LOCK_SECONDS = 60  # that SQLite waits for another process


def open_study(name: str, identity: str, storage: str | None, out: Path, *, seed: int, least_epochs: int) -> Study:
    """The study in a database, made if it is not there yet.

    Args:
        identity: what must be the same for trials to be compared.
        storage: URL; SQLite in `out` if not given.
        seed: the settings of a trial follow from it, the trial's number and the trials that were done before.
        least_epochs: that no trial is cut short before.

    Raises:
        UsageError: the storage cannot be opened, or is of another search. OutputError: `out` cannot be made.
        MissingPackageError: Optuna, or what it needs for this storage, is not installed.
    """
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        install = "pip install 'edgeyolo[search]'"
        raise MissingPackageError("optuna", needed_for="a search for settings", install=install) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage is None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot be made ({error.strerror})", where=out) from None
        storage = f"sqlite:///{out / 'search.db'}"
    try:
        with _alone(storage):
            study = optuna.create_study(
                storage=_connect(storage), study_name=name, direction="maximize", load_if_exists=True
            )
            known = study.user_attrs.get(_IDENTITY)
            if known is None:
                study.set_user_attr(_IDENTITY, identity)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"cannot be opened ({reason})", where=f"--storage {storage}") from None
    except ImportError as error:
        raise MissingPackageError(
            error.name or str(error), needed_for=f"storage {storage}", install="pip install the driver of its database"
        ) from None
    if known not in (None, identity):
        raise UsageError(
            "there is a search with other settings or ranges",
            where=storage,
            hint="Give the same ones to go on with it, or another --out or --storage",
        )
    study.sampler = _sampler_by_number(seed)
    study.pruner = optuna.pruners.MedianPruner(_BEFORE_PRUNING, n_warmup_steps=least_epochs)
    return study


def sign(trial: Trial) -> None:
    """Say that this process works on a trial."""
    trial.set_user_attr(_PROCESS, f"{socket.gethostname()}:{os.getpid()}")


def give_up_dead(study: Study) -> None:
    """Mark the trials of processes that are no more as failed, so that others take their place."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.storages import fail_stale_trials
    from optuna.trial import TrialState

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls it experimental
        fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial):
            with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another process has said so before
                study.tell(trial.number, state=TrialState.FAIL)


def _is_dead(trial: FrozenTrial) -> bool:
    """Whether it is surely nobody's: its process was one of this machine, or never said who it is."""
    host, _, process = trial.user_attrs.get(_PROCESS, "").rpartition(":")
    if not process:
        return trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() > _GRACE_SECONDS
    if host != socket.gethostname() or sys.platform == "win32":  # where to ask for a process is to end it
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _connect(storage: str) -> RDBStorage:
    from optuna.storages import RDBStorage

    arguments = {"connect_args": {"timeout": _LOCK_SECONDS}} if storage.startswith("sqlite") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its signs of life experimental
        return RDBStorage(storage, arguments, heartbeat_interval=_SIGN_SECONDS, grace_period=_GRACE_SECONDS)


@contextlib.contextmanager
def _alone(storage: str) -> Iterator[None]:
    """While the tables of a database in a file are made, which SQLite lets two processes do at once."""
    from sqlalchemy.engine import make_url

    url = make_url(storage)
    path = Path(f"{url.database}.lock")
    if url.get_backend_name() != "sqlite" or not url.database or not path.parent.is_dir():
        yield
        return
    with locked(path, waiting_for="opening this search"):
        yield
    remove_if_free(path)


def _sampler_by_number(seed: int) -> BaseSampler:
    """TPE that begins anew with each trial: processes that start together must not draw the same settings."""
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler, TPESampler

    class SamplerByNumber(BaseSampler):
        _inner: TPESampler

        def before_trial(self, study: Study, trial: FrozenTrial) -> None:
            self._inner = TPESampler(seed=seed + trial.number)

        def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
            return self._inner.infer_relative_search_space(study, trial)

        def sample_relative(
            self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
        ) -> dict[str, Any]:
            return self._inner.sample_relative(study, trial, search_space)

        def sample_independent(
            self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
        ) -> Any:
            return self._inner.sample_independent(study, trial, param_name, param_distribution)

    return SamplerByNumber()
