from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeyolo import models
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import (
    CheckpointRecord,
    load_checkpoint,
    load_matching_weights,
    read_tensors,
    save_checkpoint,
    strip_prefix,
)


def write(path: Path, name: str = "yolov7-nano", classes: int = 2, **change: object) -> torch.nn.Module:
    model = models.create(name, classes)
    spec = ModelSpec(
        name=name,
        activation=model.config.activation,
        class_names=tuple("abcdef"[:classes]),
        input=model.make_input_spec((64, 64)),
        decode=model.decode,
    )
    record = CheckpointRecord(model=spec, config=TrainConfig(model=name), data="d", epoch=1, **change)
    save_checkpoint(path, {f"model.{k}": v for k, v in model.state_dict().items()}, record)
    return model.eval()


@pytest.mark.parametrize("name", ["best.safetensors", "best", ""])
def test_a_checkpoint_is_found_and_gives_the_same_outputs(tmp_path: Path, name: str) -> None:
    model = write(tmp_path / "best.safetensors")
    loaded = load_checkpoint(tmp_path / name)
    images = torch.rand(1, 3, 64, 64)
    for mine, theirs in zip(model(images), loaded.model(images), strict=True):
        assert torch.equal(mine, theirs)
    assert loaded.record.model.class_names == ("a", "b")
    assert loaded.record.tools["edgeyolo"]


def test_absent_broken_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / "nothing")
    write(tmp_path / "best.safetensors")
    raw = (tmp_path / "best.safetensors").read_bytes()
    for size in (0, 7, 1000, len(raw) - 1):
        (tmp_path / "cut.safetensors").write_bytes(raw[:size])
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(tmp_path / "cut.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="no edgeyolo record"):
        load_checkpoint(tmp_path / "foreign.safetensors")


def test_a_newer_version_and_another_model_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "new.safetensors", format_version=99)
    with pytest.raises(CheckpointError, match="too new"):
        load_checkpoint(tmp_path / "new.safetensors")
    write(tmp_path / "best.safetensors")
    weights = strip_prefix(read_tensors(tmp_path / "best.safetensors")[0], "model.")
    other = models.create("yolov7-tiny", 2)
    with pytest.raises(CheckpointError, match="another model"):
        load_matching_weights(other, weights, where="best")


def test_fine_tuning_remakes_only_the_head_of_other_classes(tmp_path: Path) -> None:
    source = write(tmp_path / "best.safetensors", classes=2)
    weights = strip_prefix(read_tensors(tmp_path / "best.safetensors")[0], "model.")
    model = models.create("yolov7-nano", 5)
    fresh = load_matching_weights(model, weights, where="best")
    assert fresh and all(name.startswith("head") for name in fresh)
    kept = next(name for name in weights if name not in fresh and name.endswith("conv.weight"))
    assert torch.equal(model.state_dict()[kept], source.state_dict()[kept])
