"""The state of quantization-aware training between epochs: one safetensors file with its record in the header.

Keys: `trained.*` and `average.*` are the last step's and the averaged parameters, `best.*` those of the best epoch if
there is one, `optimizer.*` the optimizer's. Scales are not in it: they never change. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from edgeyolo.data.dataset import Dataset
from edgeyolo.spec.atomic import replacing_file
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.recipe import QatRecipe
from edgeyolo.spec.strict import decode_json
from edgeyolo.training.checkpoint import EpochRow

FILE_NAME = "qat.safetensors"
FORMAT_VERSION = 1
_HEADER_KEY = "edgeyolo-qat"


class QatState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far a training is.

    Attributes:
        start_sha256: of all that decides how it goes, see `start_digest`.
        start: fake-quant score before training.
        best: the highest score so far, `start` until an epoch is better.
        best_epoch: its epoch, 0 for the start.
        ema_steps: steps averaged.
        history: one row per finished epoch.
    """

    format_version: int = FORMAT_VERSION
    start_sha256: str
    start: Score
    best: Score
    best_epoch: int = 0
    ema_steps: int = 0
    history: tuple[EpochRow, ...] = ()

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return len(self.history)


def start_digest(
    modules: dict[str, nn.Module], recipe: QatRecipe, spec: ModelSpec, train_data: Dataset, val_data: Dataset
) -> str:
    """Hex sha256 of weights, scales, recipe, model and data: two trainings with the same digest go the same way.

    Pictures count by their ids and boxes, not by their files.
    """
    digest = hashlib.sha256(msgspec.json.encode((recipe, spec)))
    for part, module in modules.items():
        for name, tensor in module.state_dict().items():
            digest.update(f"{part}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for data in (train_data, val_data):
        for record in data.records:
            digest.update(f"{data.split} {record.image_id} {record.image_hw}".encode())
            digest.update(record.boxes_xyxy.tobytes() + record.class_ids.tobytes())
    return digest.hexdigest()


def save_state(path: Path, tensors: dict[str, Tensor], state: QatState) -> None:
    """Write both to `path` atomically.

    Raises:
        OutputError: the path cannot be written.
    """
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing_file(path) as temporary:
        save_file(contiguous, temporary, metadata={_HEADER_KEY: msgspec.json.encode(state).decode()})
        temporary.chmod(0o644)  # safetensors leaves files that only their owner reads


def load_state(path: Path, *, start_sha256: str) -> tuple[dict[str, Tensor], QatState]:
    """Read the state of a training that began at the start with this digest.

    Raises:
        CheckpointError: there is none, it is broken or too new, or it belongs to another start.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError("nothing to resume", where=path, hint="Start without --resume")
    again = "Remove the file and start without --resume"
    try:
        with safe_open(path, framework="pt") as reader:
            header = (reader.metadata() or {}).get(_HEADER_KEY)
            tensors: dict[str, Tensor] = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, json.JSONDecodeError, struct.error) as error:
        raise CheckpointError(f"cannot be read ({error})", where=path, hint=again) from None
    if header is None:
        raise CheckpointError("is no state of quantization-aware training", where=path, hint=again)
    state = decode_json(header.encode(), QatState, where=path)
    if state.format_version > FORMAT_VERSION:
        raise CheckpointError(f"format version {state.format_version} is too new", where=path, hint="Update edgeyolo")
    if state.start_sha256 != start_sha256:
        what = "belongs to another start: other weights, scales, recipe or data"
        raise CheckpointError(what, where=path, hint=again)
    return tensors, state


def parameter_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Every parameter of `module`, named `<prefix>.<name>`."""
    return {f"{prefix}.{name}": parameter.detach() for name, parameter in module.named_parameters()}


@torch.no_grad()
def load_parameters(module: nn.Module, values: dict[str, Tensor], *, where: object) -> None:
    """Set every parameter of `module`, in the memory layout it has; buffers stay.

    Raises:
        CheckpointError: names or shapes differ.
    """
    parameters = dict(module.named_parameters())
    if {name: p.shape for name, p in parameters.items()} != {name: v.shape for name, v in values.items()}:
        raise CheckpointError("does not fit the model", where=where, hint="Remove the file and start without --resume")
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
