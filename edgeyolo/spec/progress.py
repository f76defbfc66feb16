"""How long work tells whoever waits how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Anything that can be told how far a stage is; must be cheap, it is called once per batch or picture."""

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Say how far a stage is.

        Args:
            stage: what is going on, such as "train" or "calibrate"; a new name begins a new bar.
            done: units finished, in [0, total].
            total: units in all; 0 where it is not known.
            text: the latest figures, such as "loss 2.31", for people.
        """


class Silent:
    """A `Progress` that shows nothing."""

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        """Do nothing."""


SILENT: Progress = Silent()
