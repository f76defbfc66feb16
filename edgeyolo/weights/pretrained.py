"""Official weights into a network of ours: every tensor has its place, and what does not fit is said by name.

Only the outputs may differ, when the file was trained on another number of classes: they keep their fresh values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.formats import read_tensors

_LOG = logging.getLogger(__name__)
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Names:
    """How one official file calls the tensors of a network.

    Attributes:
        modules: path of a module or parameter here -> there.
        leaves: last part of a tensor's name here -> there, where they differ.
        ignored: endings of official names that have no part here.
        lacking: beginnings of names here of a part that the file does not have; it stays fresh.
        neutral: last part of a name here -> value it takes where the file has nothing.
    """

    modules: Mapping[str, str]
    leaves: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    neutral: Mapping[str, float] = field(default_factory=dict)

    def official(self, name: str) -> str:
        """The official name of a tensor of ours; its own if it has none."""
        path, rest = name, ""
        while path not in self.modules:
            path, _, part = path.rpartition(".")
            rest = f".{self.leaves.get(part, part) if not rest else part}{rest}"
            if not path:
                return name
        return self.modules[path] + rest

    def may_lack(self, name: str) -> bool:
        """Whether a file of this kind is whole without this tensor of ours."""
        return _leaf(name) in ("num_batches_tracked", *self.neutral) or name.startswith(self.lacking)


@dataclass(frozen=True, kw_only=True)
class Published:
    """The weights that a family's authors publish.

    Attributes:
        source: who publishes them.
        licence: of the weights, an SPDX name.
        variants: names of the models that there are weights for.
        outputs: part of the name of every tensor whose shape depends on the number of classes.
        count_classes: official tensors -> K, None where it cannot be told.
        names: config and official tensors -> how the file calls them; raises CheckpointError for a file that would be
            misread, its third argument says where from.
        padded: rows of the outputs in some files -> how many of them are classes; the rest is not used.
        spread: config, what a file holds, where from -> official name -> tensor, for files that have no names; raises
            CheckpointError for one of another length.
    """

    source: str
    licence: str
    variants: tuple[str, ...]
    outputs: str
    count_classes: Callable[[Any, Mapping[str, Tensor]], int | None]
    names: Callable[[Any, Mapping[str, Tensor], object], Names]
    padded: Mapping[int, int] = field(default_factory=dict)
    spread: Callable[[Any, Mapping[str, Tensor], object], Mapping[str, Tensor]] | None = None


@dataclass(frozen=True)
class OfficialWeights:
    """A file that was read."""

    path: Path
    tensors: Mapping[str, Tensor]


def read_weights(path: Path) -> OfficialWeights:
    """Every tensor of an official file; raises CheckpointError as `read_tensors` does."""
    return OfficialWeights(path, read_tensors(path))


@dataclass(frozen=True)
class Comparison:
    """A network's tensors beside those of a file.

    Attributes:
        found: name here -> the tensor that goes there.
        official: name here -> in the file.
        outputs: names here of outputs that are for other classes.
        neutral: name here -> value where the file needs to have nothing.
        file_classes: K of the file, None where it cannot be told.
        misfits: what is wrong -> official names.
    """

    found: dict[str, Tensor]
    official: dict[str, str]
    outputs: list[str]
    neutral: dict[str, float]
    file_classes: int | None
    misfits: dict[str, list[str]]

    @property
    def fits(self) -> bool:
        """Whether the file is of this network."""
        return not any(self.misfits.values())


def compare_weights(model: nn.Module, published: Published, weights: OfficialWeights) -> Comparison:
    """Find the place of every tensor; only shapes of the network are looked at.

    Raises:
        CheckpointError: the file's boxes would be read wrongly.
    """
    config: Any = model.config
    file_classes = published.count_classes(config, weights.tensors)
    if published.spread is not None:
        weights = replace(weights, tensors=published.spread(config, weights.tensors, weights.path))
    names = published.names(config, weights.tensors, weights.path)
    state = model.state_dict()
    official = {here: names.official(here) for here in state}
    found = {here: weights.tensors[there] for here, there in official.items() if there in weights.tensors}
    for here, value in found.items():
        if published.outputs in here and value.dim() and published.padded.get(len(value)) == config.num_classes:
            found[here] = value[: config.num_classes]
    outputs = [here for here in found if published.outputs in here and found[here].shape != state[here].shape]
    if file_classes in (None, config.num_classes):
        outputs = []  # their shapes have no excuse
    for here in outputs:
        del found[here]
    absent, known = state.keys() - found.keys() - set(outputs), set(official.values())
    misfits = {
        "missing": [official[n] for n in state if n in absent and not names.may_lack(n)],
        "unknown": [n for n in weights.tensors if n not in known and not n.endswith(names.ignored)],
        "of another shape": [
            f"{official[n]} {_sides(value)}, not {_sides(state[n])}"
            for n, value in found.items()
            if value.shape != state[n].shape
        ],
    }
    neutral = {n: names.neutral[_leaf(n)] for n in absent if _leaf(n) in names.neutral}
    return Comparison(found, official, outputs, neutral, file_classes, misfits)


def place_weights(model: nn.Module, published: Published, weights: OfficialWeights) -> list[str]:
    """Load official weights into a network in training form; returns the names that keep their fresh values.

    Raises:
        CheckpointError: the file is of another model, its boxes would be read wrongly, or a value is not a number.
    """
    config: Any = model.config
    compared = compare_weights(model, published, weights)
    if not compared.fits:
        raise _other_model(config.name, compared.misfits, weights.path)
    _check_finite({compared.official[here]: value for here, value in compared.found.items()}, weights.path)
    state = model.state_dict()
    neutral = {n: torch.full_like(state[n], value) for n, value in compared.neutral.items()}
    model.load_state_dict(compared.found | neutral, strict=False)
    placed = {*compared.found, *neutral}
    fresh = [n for n in state if n not in placed and _leaf(n) != "num_batches_tracked"]
    if compared.outputs:
        _LOG.warning(
            "%s is for %s classes, not %d: its outputs are made anew",
            weights.path,
            compared.file_classes,
            config.num_classes,
        )
    if set(fresh) - set(compared.outputs):
        _LOG.warning("%s has no auxiliary heads, which only training needs: they are made anew", weights.path)
    return fresh


def _other_model(name: str, misfits: Mapping[str, list[str]], path: Path) -> CheckpointError:
    parts = []
    for kind, tensors in misfits.items():
        if tensors:
            more = ", ..." if len(tensors) > _SHOWN else ""
            parts.append(f"{len(tensors)} {kind} ({', '.join(tensors[:_SHOWN])}{more})")
    what = f"does not fit {name}: tensors {'; '.join(parts)}"
    return CheckpointError(what, where=path, hint="It is of another model (`edgeyolo models` lists them), or altered")


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        shown = ", ".join(broken[:_SHOWN])
        raise CheckpointError(f"has values that are not numbers in {shown}", where=path, hint="Its training failed")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _sides(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "one number"
