"""What a program that runs our models is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.target import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

MODEL = "model.onnx"


@dataclass(frozen=True)
class HandOff:
    """What was written.

    Attributes:
        artefact: its files, which ONNX Runtime opens here.
        spec: what the graph takes and gives, which is not what the model did.
        steps: what is to be done with the files, one line each.
    """

    artefact: Artefact
    spec: ModelSpec
    steps: tuple[str, ...]


class Program(ABC):
    """A program that prepares pictures and reads boxes in its own way.

    Attributes:
        name: of the program's module, as targets write it.
        layout: how the graph gives its boxes; see `spec.model.RowsDecode`.
        labels_file, config_file: names of the files that it wants beside the model.
    """

    name: ClassVar[str]
    layout: ClassVar[Literal["class-scores", "best-class"]]
    labels_file: ClassVar[str]
    config_file: ClassVar[str]

    @abstractmethod
    def check(self, spec: ModelSpec) -> None:
        """Raise UsageError for a model that the program would misread."""

    @abstractmethod
    def make_graph(self, model: ModelProto, qparams: QParams | None, precision: Precision) -> ModelProto:
        """The network as the program's engine runs it, without decode.

        Args:
            qparams: given for int8.
        """

    @abstractmethod
    def make_labels(self, spec: ModelSpec) -> str:
        """The file of class names."""

    @abstractmethod
    def make_config(self, spec: ModelSpec, precision: Precision) -> str:
        """The file of settings."""

    @abstractmethod
    def list_steps(self, precision: Precision) -> list[str]:
        """What is to be done with the files, one line each."""


def describe_origin(spec: ModelSpec) -> str:
    """Which model it is, and whose weights; for the head of a file of settings."""
    origin = spec.origin
    weights = f"; its weights are, or began as, {origin.file} of {origin.source}, {origin.licence}" if origin else ""
    return f"{spec.name}{weights}. manifest.json says how it was made."
