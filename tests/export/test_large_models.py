"""Every model that is too large for the daily tests, in full: its graph is written, and gives what torch gives."""

from __future__ import annotations

import gc
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pytest
from thin import SMALL
from torch import nn

from edgeyolo import models
from edgeyolo.export import export_model
from edgeyolo.nn.fold import fold_in_place
from edgeyolo.spec.model import ModelSpec

CLASSES = 80


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in models.model_names() if name not in SMALL])
def test_it_is_exported(name: str) -> None:
    """Parity with torch is a part of writing, and so is that every layer keeps its name; p7 takes 10 GB for it."""
    network = models.create(name, CLASSES)
    side = 2 * network.side_multiple
    spec = ModelSpec(
        name=name,
        activation=network.config.activation,
        class_names=tuple(map(str, range(CLASSES))),
        input=network.make_input_spec((side, side)),
        decode=network.decode,
    )
    deploy = fold_in_place(network)
    convolutions = sum(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in deploy.modules())
    with TemporaryDirectory() as folder:  # gone after each: together they would fill gigabytes
        export_model(deploy, spec, Path(folder) / "exported")
        nodes = onnx.load(Path(folder) / "exported" / "model.onnx").graph.node
    assert sum(node.op_type in ("Conv", "ConvTranspose", "DeformConv") for node in nodes) >= convolutions
    gc.collect()
