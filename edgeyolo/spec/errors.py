"""Every error a user can meet: what is wrong, where, and what to do next; one exit code per kind of failure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "wrong usage",
    3: "a needed tool or package is missing or does not run here",
    4: "a gate was not met: accuracy, latency, licence or calibration pictures",
    5: "stopped before the end, can be resumed",
}


class EdgeYoloError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: what is wrong, one sentence without a full stop.
        where: the file, layer or argument it was found in.
        hint: what to do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = "", hint: str = "") -> None:
        self.what = what
        self.where = str(where)
        self.hint = hint
        super().__init__(str(self))

    def __reduce__(self) -> tuple[object, ...]:
        """Whatever its class asks for when it is raised, it is handed on between processes as it is."""
        return _remake, (type(self), self.__dict__)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.hint}" if self.hint else text


class UsageError(EdgeYoloError):
    """An argument, option or config value that cannot be used."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A model, target, recipe, split or key that does not exist; suggests the nearest that does."""

    def __init__(self, kind: str, name: str, choices: Iterable[str], *, where: object = "") -> None:
        known = sorted(choices)
        near = nearest_name(name, known)
        hint = f"Did you mean '{near}'?" if near else f"Known: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {kind} '{name}'", where=where, hint=hint)


class FormatError(EdgeYoloError):
    """A TOML or JSON file that is not what its format says."""


class DataError(EdgeYoloError):
    """A data set that is not recognised, or has nothing usable in it."""


class ImageError(DataError):
    """A picture that cannot be read or used."""


class CheckpointError(EdgeYoloError):
    """A checkpoint that is broken, or belongs to another model."""


class TrainingError(EdgeYoloError):
    """A training run that cannot go on, such as a loss that is not a number."""


class StoppedError(TrainingError):
    """A training run that was told to stop, or lost one of its processes; its last checkpoint can be resumed."""

    exit_code = 5


class QuantizationError(EdgeYoloError):
    """Calibration or quantization that cannot give a usable result."""


class ExportError(EdgeYoloError):
    """A model that does not survive export unchanged."""


class BackendError(EdgeYoloError):
    """An engine that cannot build, open or run an artefact."""


class EngineCrashError(BackendError):
    """An engine's package that is installed and dies on this machine."""

    exit_code = 3


class BundleError(EdgeYoloError):
    """A bundle that is broken, altered, unsafe or too new."""


class OutputError(EdgeYoloError):
    """An output that cannot be written (path, permission, space)."""


class BoardError(EdgeYoloError):
    """A board at the end of a wire that cannot be reached, or lacks what it needs."""


class AwayError(BoardError):
    """A board that does not answer, or no longer does; it may come back."""


class UnfinishedError(BoardError):
    """Some boards of several did not do it; the same command goes on with them."""

    exit_code = 5


class MissingPackageError(EdgeYoloError):
    """A package or tool that this step needs and that is not installed."""

    exit_code = 3

    def __init__(self, package: str, *, needed_for: str, install: str) -> None:
        super().__init__(f"'{package}' is needed for {needed_for} and is not installed", hint=f"Install it: {install}")
        self.package = package


class GateError(EdgeYoloError):
    """A budget of accuracy or latency, or another condition of the user's, that was not met."""

    exit_code = 4


class CalibrationError(GateError):
    """Pictures that a model should not be calibrated on."""


def _remake(kind: type[EdgeYoloError], fields: dict[str, object]) -> EdgeYoloError:
    error = kind.__new__(kind)
    error.__dict__.update(fields)
    return error


def nearest_name(name: str, choices: Iterable[str]) -> str | None:
    """The closest of `choices` to `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None
