"""What every task has to say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from edgeyolo.backends import Session
from edgeyolo.data.dataset import Dataset
from edgeyolo.runtime.clock import Timing
from edgeyolo.spec.detecting import Nms
from edgeyolo.spec.detections import Image
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress


class Task(ABC):
    """What a kind of network is for; everything that verbs do differently for it.

    Attributes:
        name: as a network's `task`.
        finds_boxes: whether it finds `Detections`, which score thresholds, curves and drawn boxes are about.
    """

    name: ClassVar[str]
    finds_boxes: ClassVar[bool]

    @abstractmethod
    def list_splits(self, path: Path) -> list[str]:
        """Names of the splits of its data; errors as `open_split`."""

    @abstractmethod
    def open_split(self, path: Path, split: str, input_hw: tuple[int, int]) -> Dataset:
        """One split, for a network whose input has this height and width.

        Raises:
            DataError: not the data of this task, or broken. UnknownNameError: no such split.
        """

    @abstractmethod
    def check_data(self, spec: ModelSpec, data: Dataset) -> None:
        """Raise UsageError where the data is of other classes, or of another task, than a model."""

    @abstractmethod
    def find(
        self,
        session: Session,
        spec: ModelSpec,
        data: Dataset,
        rows: Sequence[int],
        *,
        nms: Nms | None = None,
        batch: int = 1,
        progress: Progress = SILENT,
    ) -> dict[int, Any]:
        """What the network finds in some of the samples of a split, by their index.

        One that cannot be read is logged and left out.

        Args:
            batch: samples that the session is given at a time, at most.

        Raises:
            DataError: no samples. UsageError: as `check_data`.
        """

    @abstractmethod
    def make_timed(self, session: Session, spec: ModelSpec) -> Callable[[Image], Timing]:
        """What a user calls for a sample's picture, with the settings of everyday use; gives the time of that call."""

    @abstractmethod
    def score(self, found: Mapping[int, Any], data: Dataset, *, artefact: str) -> Score:
        """What that is worth.

        Raises:
            DataError: nothing is said of any sample. MissingPackageError: pycocotools is not installed.
        """
