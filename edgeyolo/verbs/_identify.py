"""What files of others are, before they are imported: official weights, and detectors as ONNX."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.importing import ImportOptions

if TYPE_CHECKING:
    from edgeyolo.graph.foreign import Guess
    from edgeyolo.spec.model import ModelSpec, Origin

_LEAST_PLACED = 0.5  # part of a file's tensors that have a place in a model that is worth naming
_NAMED = 10  # tensors of each kind of misfit


@dataclass(frozen=True)
class ExaminedWeights:
    """A file of weights, or a checkpoint of ours.

    Attributes:
        tensors, parameters: how many there are.
        model: the one that it is of, or comes nearest to; "" where none is near.
        family: of `model`.
        others: models that it is of as well.
        fits: whether it is of `model`, whole.
        num_classes: 0 where they cannot be told.
        origin: whose it is, if it is of `model`.
        misfits: "missing", "unknown", "of another shape" -> how many tensors, and the first of them.
    """

    tensors: int
    parameters: int
    model: str = ""
    family: str = ""
    others: tuple[str, ...] = ()
    fits: bool = False
    num_classes: int = 0
    origin: Origin | None = None
    misfits: dict[str, tuple[int, list[str]]] = field(default_factory=dict)


def examine_weights(file: Path) -> ExaminedWeights:
    """Read a file of official weights and find its place in the zoo; nothing in it is run.

    Raises:
        CheckpointError: unreadable, or it asks for more than tensors and containers.
    """
    from edgeyolo import models
    from edgeyolo.weights.pretrained import read_weights

    weights = read_weights(file)
    sizes = [value.numel() for value in weights.tensors.values()]
    compared = models.compare_models(weights)
    name, nearest = next(iter(compared.items()), ("", None))
    if nearest is None or len(nearest.found) < _LEAST_PLACED * len(sizes):
        return ExaminedWeights(len(sizes), sum(sizes))
    return ExaminedWeights(
        tensors=len(sizes),
        parameters=sum(sizes),
        model=name,
        family=models.family_of(name),
        others=tuple(other for other, found in compared.items() if other != name and found.fits),
        fits=nearest.fits,
        num_classes=nearest.file_classes or 0,
        origin=models.origin_of(name, file),
        misfits={kind: (len(names), names[:_NAMED]) for kind, names in nearest.misfits.items() if names},
    )


@dataclass(frozen=True)
class ExaminedGraph:
    """An ONNX file.

    Attributes:
        opset: of the standard operators.
        inputs, outputs: name -> sizes, a word where one is open.
        operators: how many nodes there are of each.
        parameters: values of its weights.
        model: what `import` would make of it; None where it would not, which `refusal` explains.
        guesses: what of it nobody has said.
    """

    opset: int
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    operators: dict[str, int]
    parameters: int
    model: ModelSpec | None = None
    guesses: tuple[Guess, ...] = ()
    refusal: str = ""


def examine_graph(file: Path) -> ExaminedGraph:
    """Read an ONNX file, and see what `import` would make of it.

    Raises:
        BackendError: it cannot be read. MissingPackageError: no onnx package.
    """
    from edgeyolo.graph.qdq import load_onnx
    from edgeyolo.verbs._import_onnx import read_graph

    model = load_onnx(file)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    sizes = {
        entry.name: [axis.dim_value or axis.dim_param or "?" for axis in entry.type.tensor_type.shape.dim]
        for entry in (*graph.input, *graph.output)
        if entry.name not in weights
    }
    examined = ExaminedGraph(
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        inputs={entry.name: sizes[entry.name] for entry in graph.input if entry.name in sizes},
        outputs={entry.name: sizes[entry.name] for entry in graph.output},
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        parameters=sum(math.prod(tensor.dims) for tensor in graph.initializer),
    )
    try:
        _, spec, guesses = read_graph(file, ImportOptions())
    except EdgeYoloError as error:
        return replace(examined, refusal=str(error))
    return replace(examined, model=spec, guesses=guesses)
