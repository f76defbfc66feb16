"""What an engine is, whole: what each must do, and what holds for one that says nothing else.

One module or package of this folder per engine, with one instance of a subclass of `Engine` named `ENGINE`. The rest of
the tool asks these objects; it knows no engine by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgeyolo.spec.detections import Pixels
from edgeyolo.spec.errors import BackendError, UnknownNameError, UsageError
from edgeyolo.spec.layers import LayerReport
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import InputSpec, ModelSpec
from edgeyolo.spec.packages import Package
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.target import Precision, Target
from edgeyolo.spec.tuning import Choice
from edgeyolo.spec.work import Convolution


class Session(Protocol):
    """An opened artefact. `run` may be called from several threads."""

    def run(self, images: Pixels) -> list[npt.NDArray[np.float32]]:
        """Inputs, (B, 3, H, W) float32 -> one (B, C, h, w) float32 array per raw head map, map_0 first.

        Args:
            images: (B, H, W, 3) uint8 where the spec's `input.pixels` says so.

        Raises:
            BackendError: another shape or type than the artefact takes, or the engine failed.
        """

    def close(self) -> None:
        """Give the engine's memory back; the session cannot run afterwards."""


@runtime_checkable
class CpuSession(Session, Protocol):
    """A session that computes with threads on processors, and whose number of threads can be changed."""

    @property
    def threads(self) -> int:
        """Threads that it computes with."""

    def use_threads(self, count: int) -> None:
        """Compute with so many, at least 1, from the next run on.

        Raises:
            BackendError: the artefact's file has changed since it was opened.
        """


@dataclass(frozen=True)
class Finding:
    """One line of what an engine finds on this machine.

    Attributes:
        what: "Jetson", "CUDA driver" ...
        found: what is there, or what is wrong with it.
        hint: what to do about it, "" where nothing is to be done.
    """

    what: str
    found: str
    hint: str = ""


@dataclass(frozen=True)
class Runnable:
    """A target whose artefacts can be opened on this computer.

    Attributes:
        target: its name.
        is_host: this computer itself; False for a board, whose scores can be had here and whose times cannot.
        is_simulated: whether a vendor's simulator stands in for the board.
        problems: what is missing here, as `Engine.probe` says it; empty when nothing is.
    """

    target: str
    is_host: bool
    is_simulated: bool
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Ruler:
    """A small network of layers of one kind, to compare this computer with another by.

    Attributes:
        run: runs it once, in one thread.
        convolutions: what that computes.
    """

    run: Callable[[], object]
    convolutions: tuple[Convolution, ...]


@dataclass(frozen=True)
class OwnEnvironment:
    """Software of a vendor that cannot live beside ours.

    Attributes:
        notice: what it is, whose, under which licence, how large and where it goes.
        make: makes it and gives its folder; what was there stays as it was where that fails, with a BackendError or
            OutputError.
    """

    notice: str
    make: Callable[[], Path]


class Engine(ABC):
    """A way to run a model on a kind of board.

    Attributes:
        name: of the engine's module, as targets and manifests write it.
        packages: of the vendor, for building and running.
        cpu_package: the one whose code computes on the processor, "" where a GPU or NPU computes. It is tried in a
            process of its own before it is trusted.
        takes_bytes: whether its graphs may take the bytes of a picture (`InputSpec.pixels`).
        is_reference: whether it computes the Q/DQ graph as it is written, so that each integer can be compared.
        lists_layers: whether it says of each layer in which precision it runs (see `list_layers`).
        lacks: operators of ONNX that our networks may have, and this engine has not.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[Package, ...]]
    cpu_package: ClassVar[str] = ""
    takes_bytes: ClassVar[bool] = False
    is_reference: ClassVar[bool] = False
    lists_layers: ClassVar[bool] = False
    lacks: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def probe(self, target: Target) -> list[str]:
        """What this machine lacks to build for `target`, and how to get it; empty when nothing is missing."""

    @abstractmethod
    def build(
        self,
        onnx_path: Path,
        spec: ModelSpec,
        qparams: QParams | None,
        target: Target,
        out: Path,
        *,
        precision: Precision,
        progress: Progress = SILENT,
    ) -> Artefact:
        """Write the artefact's files into the folder `out`; see `edgeyolo.backends.build`."""

    @abstractmethod
    def open(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, *, threads: int = 0, progress: Progress = SILENT
    ) -> Session:
        """Load an artefact; see `edgeyolo.backends.open_artefact`."""

    def host_target(self) -> str:
        """Name of a target whose artefacts run on this computer and may be timed here; "" where there is none."""
        return ""

    def check_target(self) -> str:
        """A board whose artefacts can be opened here, "" for none: scores are the board's, times are not."""
        return ""

    def is_simulated(self) -> bool:
        """Whether a vendor's simulator stands in for the board here, so that results are to be called simulated."""
        return False

    def is_half(self, target: Target, precision: Precision) -> bool:
        """Whether boards like `target` compute in float16 what an artefact of this precision does not do in int8."""
        return False

    def needed_features(self, artefact: Artefact, target: Target) -> tuple[str, ...]:
        """Processor features without which `artefact` is wrong on boards like `target`, as Linux names them.

        What the engine's package needs anyway is not among them.
        """
        return ()

    def tuning_choices(self, folder: Path, artefact: Artefact) -> list[Choice]:
        """Ways to run `artefact` on this device that may be faster than how it was deployed, most promising first.

        None where the engine chooses its kernels itself.

        Raises:
            BackendError: files that are missing or broken.
        """
        return []

    def list_convolutions(self, folder: Path, artefact: Artefact, spec: ModelSpec) -> list[Convolution]:
        """What an artefact computes for one picture, for an estimate of how long it takes.

        Raises:
            UsageError: artefacts of this engine do not say it. BackendError: files that are missing or broken.
        """
        raise UsageError(
            f"an artefact of {self.name} does not say what it computes",
            where=folder,
            hint="Give the folder of `edgeyolo quantize`, or the checkpoint",
        )

    def list_layers(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, images: Pixels, *, runs: int, threads: int = 0
    ) -> LayerReport:
        """In which precision each layer really runs here, and how long it takes.

        Args:
            images: what a run is made on, as `Session.run` takes it.
            runs: of which times are medians.
            threads: as `open`.

        Raises:
            UsageError: the engine does not say. BackendError: as `open` and `Session.run`.
        """
        raise UsageError(
            f"{self.name} does not say in which precision its layers run", where=folder, hint="Leave out --layers"
        )

    def count_instructions(self, convolutions: Sequence[Convolution], core: str, floats: Precision) -> float:
        """Instructions of one picture, estimated from what was counted on an emulated core.

        Args:
            floats: in which the core computes what is not int8.

        Raises:
            UnknownNameError: no costs of that core are known.
        """
        raise UnknownNameError(f"core with counted costs of {self.name}", core, [])

    def open_rulers(self) -> dict[str, Ruler]:
        """Networks to compare this computer with another by, by name.

        Raises:
            MissingPackageError, BackendError: the engine does not run here.
        """
        return {}

    def examine(self) -> list[Finding]:
        """What there is on this machine beside the packages, the first thing to mend first."""
        return []

    def list_built(self) -> list[Path]:
        """Files of what the engine built on this machine when it opened bundles, and keeps for the next time."""
        return []

    def own_environment(self) -> OwnEnvironment | None:
        """What the engine needs on this computer beside packages for pip, None where that is nothing.

        Raises:
            BackendError: it is not for this kind of computer.
        """
        return None

    def build_notes(self, folder: Path, artefact: Artefact) -> list[str]:
        """What whoever deploys should be told of an artefact, one line each."""
        return []


def check_images(images: Pixels, spec: InputSpec) -> None:
    """Raise BackendError unless `images` are inputs of that shape and type."""
    if images.ndim != 4 or images.shape[1:] != spec.shape or images.dtype != spec.pixels:
        wanted = ", ".join(map(str, spec.shape))
        raise BackendError(
            f"images are {images.shape} {images.dtype}, and the artefact takes (B, {wanted}) {spec.pixels}"
        )
