"""What a kind of head is: the names and shapes of its maps, and the way from them to boxes, or to joints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy.typing as npt

from edgeyolo.spec.detections import Float32, Int64
from edgeyolo.spec.model import Decode

Array: TypeAlias = Any  # a numpy array or a torch tensor
Maths: TypeAlias = Any  # the module numpy or torch, whichever the arrays are of
Anchors: TypeAlias = tuple[tuple[tuple[float, float], ...], ...]
Candidates: TypeAlias = tuple[Float32, Float32, Int64]


@dataclass(frozen=True)
class Predictions:
    """The values of maps, sorted by prediction: N of each of B pictures, level by level, in rows from the top left.

    A score is the sigmoid of a class logit, times that of the objectness where there is one.

    Attributes:
        objectness: (B, N) logits, or None.
        classes: (B, N, K) logits.
        boxes: (B, N, D) raw values.
    """

    objectness: Array
    classes: Array
    boxes: Array


class Tail(Protocol):
    """Appends nodes to a graph, each under a name of its own."""

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output and return its name."""

    def split(self, value: str, *sizes: int, axis: int) -> list[str]:
        """Append a Split and return the names of its outputs."""

    def constant(self, values: npt.ArrayLike) -> str:
        """Append a float32 constant and return its name."""

    def shape(self, *sizes: int) -> str:
        """Append an int64 constant, for Reshape and the like, and return its name."""


class Head(ABC):
    """Reads what a network gives, as a struct of `spec.model` describes it.

    Attributes:
        reads: the struct.
        anchors_wh: per level, finest first, in input pixels; None for a kind that has none.
    """

    reads: ClassVar[type[Decode]]
    anchors_wh: Anchors | None = None

    def __init__(self, spec: Any) -> None:
        self.strides: tuple[int, ...] = spec.strides

    @abstractmethod
    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """Every number of the struct that is computed with: its name, and whether it is in its range."""

    @abstractmethod
    def output_names(self) -> list[str]:
        """Names of the outputs, in their order."""

    @abstractmethod
    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """Shape without the batch, (C, h, w) for a raw map, of every output, in their order."""

    def grids_hw(self, image_hw: tuple[int, int]) -> list[tuple[int, int]]:
        """Rows and columns of each level, finest first."""
        return [(image_hw[0] // stride, image_hw[1] // stride) for stride in self.strides]


class BoxHead(Head):
    """A head whose outputs are boxes."""

    @abstractmethod
    def decode(self, maps: Sequence[Float32], *, score_threshold: float, multi_label: bool = False) -> Candidates:
        """Turn the outputs for one picture into candidate boxes, before NMS.

        Scores are thresholded first, as logits, and only the survivors are decoded.

        Args:
            maps: of the shapes that `map_shapes` gives.
            score_threshold: in [0, 1]; candidates with a lower score are left out.
            multi_label: False gives each prediction its best class only; True gives one candidate for every class that
                reaches the threshold, as mAP is measured. Without effect where the graph has chosen the class.

        Returns:
            boxes_xyxy (N, 4) float32 input pixels, scores (N,) float32, class_ids (N,) int64, in no particular order.

        Raises:
            BackendError: a map holds NaN: the network or its engine is broken.
        """


class JointHead(Head):
    """A head whose outputs are the joints of one person.

    Attributes:
        margin: the part of the picture that is cut out for a person is so many times as large as its box.
    """

    margin: float

    @abstractmethod
    def decode_joints(self, maps: Float32) -> Float32:
        """Heat maps of N persons, (N, K, h, w) -> (N, K, 3) float32: x and y in input pixels, and the score.

        Raises:
            BackendError: a map holds NaN: the network or its engine is broken.
        """


class MapsHead(BoxHead):
    """A head whose outputs may be followed by nodes that decode them inside the graph."""

    @abstractmethod
    def count_rows(self, image_hw: tuple[int, int]) -> int:
        """N, the predictions of a picture."""

    @abstractmethod
    def append_rows(
        self, tail: Tail, maps: Sequence[str], *, num_classes: int, image_hw: tuple[int, int]
    ) -> tuple[str, str]:
        """Append what decodes the named maps; the names of boxes (B, N, 4) and of all classes' scores (B, K, N)."""


class RawHead(MapsHead):
    """A head whose maps leave the network as they are; decoded by numpy here, or by nodes behind the network.

    Attributes:
        bins: of the distribution that stands for each side of a box; 0 where a box is four values.
    """

    bins: int = 0

    def count_rows(self, image_hw: tuple[int, int]) -> int:
        """See `MapsHead.count_rows`."""
        return len(self.make_places(image_hw))

    @abstractmethod
    def predictions(self, maps: Sequence[Array]) -> list[Predictions]:
        """The values of maps (B, C, h, w), numpy or torch, one entry per level."""

    @abstractmethod
    def make_places(self, image_hw: tuple[int, int]) -> Float32:
        """(N, P): what `boxes_xyxy` must know of each of the N predictions of a picture, in the order of the maps."""

    @abstractmethod
    def boxes_xyxy(self, values: Array, places: Array, maths: Maths) -> Array:
        """Raw values (..., D) and places (..., P) of predictions -> boxes (..., 4) in input pixels.

        Args:
            maths: the module torch, which the ground floor does not import.
        """
