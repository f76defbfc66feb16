"""Take away any one guest (engine, model family, head, data format, program): the rest works and names what it lacks.

The guests are what is found in their folders. Each is removed from a copy of the package, and `cases/demolition.py`
runs on what is left, in a process of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from every_format import WRITERS
from onnx import TensorProto, helper, numpy_helper
from shared import make_once

from edgeyolo import backends, data, handoffs, heads, models, verbs
from edgeyolo.bundle import write_bundle
from edgeyolo.data.dataset import open_dataset
from edgeyolo.runtime import Detector
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelRecord, ModelSpec
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.strict import encode_json
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.checkpoint import CheckpointRecord, save_checkpoint

ROOT = Path(__file__).parents[1]
KnockDown = Callable[..., None]
CASE = Path(__file__).parent / "cases" / "demolition.py"
SIDE = 64
SPEC = ModelSpec(
    name="one layer",
    activation="relu",
    class_names=("a", "b"),
    input=InputSpec(image_hw=(SIDE, SIDE)),
    decode=AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),)),
)


def list_guests(room: Any) -> list[str]:
    return [found.name for found in pkgutil.iter_modules(room.__path__) if not found.name.startswith("_")]


def list_formats() -> list[str]:
    modules = {name: importlib.import_module(f"edgeyolo.data.{name}") for name in list_guests(data)}
    return [name for name, module in modules.items() if hasattr(module, "read_split")]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the whole package made: a model of one layer, a bundle for each engine, a checkpoint, and data sets."""
    return make_once(tmp_path_factory, "demolition", make_everything)


def make_everything(folder: Path) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    (folder / "model").mkdir(parents=True)
    cv2.imwrite(str(folder / "picture.png"), picture)
    write_model(folder / "model", rng)
    for name in backends.list_engines():
        (folder / "file").write_bytes(b"of an engine")
        artefact = Artefact(engine=name, engine_version="", precision="fp32", files={"any": "file"})
        write_bundle(folder / f"{name}.eyb", Manifest(model=SPEC, target="t", artefact=artefact, sha256={}), folder)
    host = next(found for found in backends.list_runnable() if found.is_host and not found.problems)
    verbs.deploy(folder / "model", host.target, folder / "whole.eyb")
    with Detector.load(folder / "whole.eyb") as detector:
        np.save(folder / "boxes.npy", detector.detect(picture).boxes_xyxy)
    for name, write in WRITERS.items():
        write(folder / "data" / name)
    save_random_checkpoint(folder / "random.safetensors")


def write_model(folder: Path, rng: np.random.Generator) -> None:
    """A folder as `quantize` writes it, without scales: a convolution as large as its stride."""
    weight = rng.normal(0, 0.2, (7, 3, 8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w"], ["map_0"], kernel_shape=[8, 8], strides=[8, 8])],
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [1, 7, 8, 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    record = ModelRecord(model=SPEC, onnx_sha256=sha256_of(folder / "model.onnx"))
    (folder / "model.json").write_bytes(encode_json(record))


def save_random_checkpoint(path: Path) -> None:
    model = models.create("yolov7-nano", 3)
    spec = ModelSpec(
        name="yolov7-nano",
        activation=model.config.activation,
        class_names=("ant", "bee", "cat"),
        input=model.make_input_spec((SIDE, SIDE)),
        decode=model.decode,
    )
    record = CheckpointRecord(model=spec, config=TrainConfig(model=spec.name), data="none", epoch=1)
    save_checkpoint(path, {f"model.{name}": tensor for name, tensor in model.state_dict().items()}, record)


@pytest.fixture
def knock_down(made: Path, tmp_path: Path, quick_python: list[str]) -> KnockDown:
    """Runs the checks without one module or package of a room."""

    def run_checks(room: str, name: str, *told: object) -> None:
        for part in ("edgeyolo", "targets", "calib"):
            shutil.copytree(ROOT / part, tmp_path / part)
        shutil.copytree(made, tmp_path / "made")
        guest = tmp_path / "edgeyolo" / room / name
        if guest.is_dir():
            shutil.rmtree(guest)
        else:
            guest.with_suffix(".py").unlink()
        kinds = {"backends": "engine", "models": "family", "heads": "head", "data": "format", "handoffs": "program"}
        command = [*quick_python, str(CASE), kinds[room], name, str(tmp_path / "made"), *map(json.dumps, told)]
        variables = os.environ | {"PYTHONPATH": str(tmp_path), "EDGEYOLO_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr

    return run_checks


@pytest.mark.parametrize("name", backends.list_engines())
def test_an_engine(name: str, knock_down: KnockDown) -> None:
    """`quantize`, which measures on every engine that can run here, is tried where the lost one is one of them."""
    knock_down("backends", name, bool(backends.load_engine(name).host_target()))


@pytest.mark.parametrize("name", list_guests(models))
def test_a_family(name: str, knock_down: KnockDown) -> None:
    variants = list(importlib.import_module(f"edgeyolo.models.{name}").VARIANTS)
    knock_down("models", name, variants)


@pytest.mark.parametrize("name", list_guests(heads))
def test_a_head(name: str, knock_down: KnockDown) -> None:
    """Each kind with an example of the struct that describes it."""
    readers = {module: importlib.import_module(f"edgeyolo.heads.{module}").HEAD for module in list_guests(heads)}
    described = {module: msgspec.to_builtins(make_example(head.reads)) for module, head in readers.items()}
    knock_down("heads", name, described)


@pytest.mark.parametrize("name", list_formats())
def test_a_format(name: str, made: Path, knock_down: KnockDown) -> None:
    written = {str(path): reader_of(path) for path in (made / "data").iterdir()}
    assert len(set(written.values())) > 1
    knock_down("data", name, written)


@pytest.mark.parametrize("name", handoffs.list_programs())
def test_a_program(name: str, knock_down: KnockDown) -> None:
    knock_down("handoffs", name)


def reader_of(path: Path) -> str:
    """The module that reads a data set."""
    assert len(open_dataset(path, "train")) == 3
    (found,) = [n for n in list_formats() if importlib.import_module(f"edgeyolo.data.{n}").is_recognised(path)]
    return found


def make_example(kind: Any) -> Any:
    """A value of a type: 8 wherever there is a number, one item in whatever may have several, the first of choices; of
    a struct, what has to be given."""
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[0]
    if kind is bool:
        return True
    if typing.get_origin(kind) is tuple:
        return tuple(make_example(part) for part in typing.get_args(kind) if part is not Ellipsis)
    if kind in (int, float):
        return kind(8)
    fields = typing.get_type_hints(kind)
    required = (field.name for field in msgspec.structs.fields(kind) if field.required)
    return kind(**{name: make_example(fields[name]) for name in required})
