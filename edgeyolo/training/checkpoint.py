"""Checkpoints: one safetensors file with the weights and, in its header, the record of how they were made.

Keys: `model.*` are the averaged weights, which is what everything downstream uses. A `last` checkpoint also
holds `trained.*` and `optimizer.*`, so that a run can go on where it stopped. Nothing in it is code.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edgeyolo import models
from edgeyolo.backends import list_packages
from edgeyolo.spec.atomic import replacing_file, write_file
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.provenance import sha256_of, tool_versions
from edgeyolo.spec.sizes import image_hw_of
from edgeyolo.spec.strict import decode_json, encode_json
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.rep_optimizer import take_rep_form

FORMAT_VERSION = 1
_HEADER_KEY = "edgeyolo"


class EpochRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the log. Losses are means over the epoch; AP in percent, None where not evaluated."""

    epoch: int
    losses: dict[str, float]
    learning_rate: float
    seconds: float
    ap: float | None = None
    ap50: float | None = None


class CheckpointRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the weights were made.

    Attributes:
        epoch: epochs finished.
        score: of these weights on the validation split, None if not evaluated.
        start: score before training, where that counts.
        best: the highest score of the run so far, of epoch `best_epoch`; its AP is `best_ap`, percent.
        history: one row per finished epoch.
        ema_steps: steps averaged.
        step: steps done of the next epoch, when the run was stopped in it.
        sums: their losses, summed.
        identity: of the job that was trained, empty for a detector.
    """

    format_version: int = FORMAT_VERSION
    model: ModelSpec
    config: TrainConfig
    data: str
    epoch: int
    score: Score | None = None
    start: Score | None = None
    best: Score | None = None
    best_ap: float = -1.0
    best_epoch: int = 0
    history: tuple[EpochRow, ...] = ()
    ema_steps: int = 0
    step: int = 0
    sums: dict[str, float] = {}
    identity: str = ""
    tools: dict[str, str] = {}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: the model in training form with averaged weights, in eval mode."""

    model: models.DetectorNetwork
    record: CheckpointRecord
    sha256: str
    path: Path

    def at_size(self, image_size: int | str | None) -> Checkpoint:
        """The same weights for an input of another `ImageSize`, whose score nobody knows; as it is for None.

        Raises:
            UsageError: a side that the strides of the model do not divide.
        """
        spec = self.record.model
        if image_size is None or image_hw_of(image_size) == spec.input.image_hw:
            return self
        image_hw = self.model.make_input_spec(image_hw_of(image_size)).image_hw
        spec = msgspec.structs.replace(spec, input=msgspec.structs.replace(spec.input, image_hw=image_hw))
        return replace(self, record=msgspec.structs.replace(self.record, model=spec, score=None))


def checkpoint_path(path: Path) -> Path:
    """The file meant by `runs/cells/best.safetensors`, `runs/cells/best` or `runs/cells`.

    Raises:
        CheckpointError: there is none.
    """
    for candidate in (path, Path(f"{path}.safetensors"), path / "best.safetensors", path / "last.safetensors"):
        if candidate.is_file() and candidate.suffix == ".safetensors":
            return candidate
    raise CheckpointError(
        "there is no checkpoint", where=path, hint="Give a folder or file that `edgeyolo train` wrote"
    )


def save_checkpoint(path: Path, tensors: dict[str, Tensor], record: CheckpointRecord) -> None:
    """Write `tensors` and `record` to `path` atomically, and the record as JSON beside it for people.

    Raises:
        OutputError: the path cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    record = msgspec.structs.replace(record, tools=tool_versions(list_packages()))
    header = {_HEADER_KEY: msgspec.json.encode(record).decode()}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing_file(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=header)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from None
        temporary.chmod(0o644)  # safetensors leaves files that only their owner reads
    write_file(path.with_suffix(".json"), encode_json(record))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], CheckpointRecord]:
    """Every tensor of a checkpoint and its record.

    Raises:
        CheckpointError: broken, not written by edgeyolo, or of a newer version.
    """
    with _opened(path) as reader:
        return {name: reader.get_tensor(name) for name in reader.keys()}, _record_in(reader, path)  # noqa: SIM118


def read_record(path: Path) -> CheckpointRecord:
    """The record of a checkpoint, without its tensors; errors as `read_tensors`."""
    with _opened(path) as reader:
        return _record_in(reader, path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as reader:
            yield reader
    except (SafetensorError, OSError, ValueError, json.JSONDecodeError, struct.error) as error:
        raise CheckpointError(f"cannot be read ({error})", where=path, hint="The file is broken; train again") from None


def _record_in(reader: Any, path: Path) -> CheckpointRecord:
    header = (reader.metadata() or {}).get(_HEADER_KEY)
    if header is None:
        raise CheckpointError(
            "has no edgeyolo record in its header", where=path, hint="It was written by something else"
        )
    record = decode_json(header.encode(), CheckpointRecord, where=path)
    if record.format_version > FORMAT_VERSION:
        raise CheckpointError(f"format version {record.format_version} is too new", where=path, hint="Update edgeyolo")
    return record


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint as a model with its averaged weights.

    Raises:
        CheckpointError: as `read_tensors`, or the weights do not fit the model that the record names.
    """
    path = checkpoint_path(path)
    tensors, record = read_tensors(path)
    model = models.rebuild(record.model)
    take_rep_form(model, record.config.rep, where=path)
    load_weights(model, strip_prefix(tensors, "model."), where=path)
    return Checkpoint(model.eval(), record, sha256_of(path), path)


def strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose name starts with `prefix`, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_weights(model: nn.Module, weights: dict[str, Tensor], *, where: object) -> None:
    """Load weights that must all fit.

    Raises:
        CheckpointError: names or shapes differ; says which, the first few of each kind.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights]
    extra = [name for name in weights if name not in expected]
    shapes = [n for n in expected if n in weights and expected[n].shape != weights[n].shape]
    if missing or extra or shapes:
        parts = [f"{len(v)} {k} ({', '.join(v[:3])})" for k, v in _kinds(missing, extra, shapes).items() if v]
        raise CheckpointError(f"does not fit the model: {'; '.join(parts)}", where=where, hint="It is of another model")
    model.load_state_dict(weights)


def load_matching_weights(model: nn.Module, weights: dict[str, Tensor], *, where: object) -> list[str]:
    """Load every tensor whose name and shape fit, for fine-tuning; returns the names that kept their fresh values.

    Raises:
        CheckpointError: fewer than half of the model's tensors fit, so it is of another model.
    """
    expected = model.state_dict()
    fitting = {n: t for n, t in weights.items() if n in expected and expected[n].shape == t.shape}
    if 2 * len(fitting) < len(expected):
        raise CheckpointError(
            f"only {len(fitting)} of {len(expected)} tensors fit", where=where, hint="It is of another model"
        )
    model.load_state_dict(fitting, strict=False)
    return [name for name in expected if name not in fitting]


def _kinds(missing: list[str], extra: list[str], shapes: list[str]) -> dict[str, list[str]]:
    return {"missing": missing, "unknown": extra, "of another shape": shapes}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as named tensors: `optimizer.<parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; `tensors` as read from a checkpoint.

    Each state takes the memory layout of its parameter: fused optimizers walk both in storage order.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in strip_prefix(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
