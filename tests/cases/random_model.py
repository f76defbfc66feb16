"""A model folder from random weights, for what needs no trained model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.onnx` and `model.json` of yolov7-nano with random weights, two classes, 64 pixels."""
    import torch

    from edgeyolo import models
    from edgeyolo.export import export_model
    from edgeyolo.nn.fold import fold_model
    from edgeyolo.spec.model import ModelSpec

    torch.manual_seed(0)
    model = models.create("yolov7-nano", 2)
    spec = ModelSpec(
        name="yolov7-nano",
        activation="silu",
        class_names=("disc", "ring"),
        input=model.make_input_spec((64, 64)),
        decode=model.decode,
    )
    folder = tmp_path_factory.mktemp("model") / "float"
    export_model(fold_model(model.eval()), spec, folder)
    return folder
