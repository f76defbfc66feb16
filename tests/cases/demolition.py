"""What is left of edgeyolo when one guest is gone. Run by tests/test_demolition.py in a process of its own.

    python demolition.py KIND NAME FOLDER

PYTHONPATH holds the package without that guest; FOLDER holds what the whole package made. Each check is a sentence of
README: something still works, and what is lacking is named by an error of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

import edgeyolo
from edgeyolo.spec.errors import DataError, EdgeYoloError, UnknownNameError
from edgeyolo.spec.model import Decode

GROUND_FLOOR = ("spec", "geometry", "heads", "data", "bundle", "graph", "backends", "handoffs", "runtime")
GROUND_FLOOR += ("evaluation", "latency")


def main(kind: str, name: str, folder: Path) -> None:
    """Check what holds for every guest, then what holds for this kind."""
    import_all(*GROUND_FLOOR, "cli", "verbs")
    assert {"engines", "packages"} <= run_command("doctor").keys()
    targets = run_command("targets")
    assert isinstance(targets, list) and targets
    checks = {"engine": check_engines, "family": check_families, "head": check_heads, "format": check_formats}
    (checks | {"program": check_programs})[kind](name, folder)


def check_engines(name: str, folder: Path) -> None:
    """Every other engine that can run here still deploys and detects; a target and a bundle of the lost one say so."""
    from edgeyolo import backends, verbs
    from edgeyolo.runtime import Detector
    from edgeyolo.spec.target import list_targets, load_target

    listed = {row["name"]: row for row in run_command("targets")}
    assert listed.keys() == set(list_targets())
    picture = cv2.imread(str(folder / "picture.png"))
    hosts = [runnable for runnable in backends.list_runnable() if runnable.is_host and not runnable.problems]
    assert hosts
    for host in hosts:
        verbs.deploy(folder / "model", host.target, folder / "here.eyb")
        with Detector.load(folder / "here.eyb") as detector:
            np.testing.assert_allclose(
                detector.detect(picture).boxes_xyxy, np.load(folder / "boxes.npy"), rtol=1e-4, atol=1e-3
            )
    verbs.deploy(folder / "model", "host-cpu", folder / "here.eyb")  # whatever is the fastest of the others
    for target in list_targets():
        wanted = load_target(target)
        takes_float = set(wanted.precisions) - {"int8", "mixed"}  # the model has no scales
        if wanted.engine == name and not wanted.first_of and takes_float:
            expect(UnknownNameError, name, lambda t=target: verbs.deploy(folder / "model", t, folder / "lost.eyb"))
    bundle = folder / f"{name}.eyb"
    expect(UnknownNameError, name, lambda: Detector.load(bundle))
    if json.loads(sys.argv[4]):
        check_quantize(folder)


def check_quantize(folder: Path) -> None:
    """`edgeyolo quantize` with its report, which asks the engines that are left."""
    from edgeyolo import backends, verbs

    result = verbs.quantize(folder / "random.safetensors", folder / "data" / "yolo", folder / "int8", recipe="int8-max")
    measured = {score.artefact.partition(" ")[0] for score in result.scores}
    assert measured & set(backends.list_engines())
    assert (folder / "int8" / "report.html").is_file()


def check_families(name: str, _: Path) -> None:
    """The others create a network and fold it; one of the lost family is unknown."""
    import torch

    from edgeyolo import models
    from edgeyolo.nn.fold import fold_model

    import_all(*(found.name for found in pkgutil.iter_modules(edgeyolo.__path__) if found.name != "__main__"))
    lost = json.loads(sys.argv[4])
    families = {importlib.import_module(f"edgeyolo.models.{module}") for module in guests("models")}
    for family in families:
        variant = next(iter(family.VARIANTS))
        assert variant in models.model_names()
        network = models.create(variant, 2).eval()
        with torch.no_grad():
            maps = fold_model(network)(torch.zeros(1, 3, 64, 64))
        assert all(map_.isfinite().all() for map_ in maps)
    expect(UnknownNameError, lost[0], lambda: models.create(lost[0], 2))
    assert not set(lost) & set(models.model_names())


def check_heads(name: str, _: Path) -> None:
    """The others decode; asking for the lost one names it."""
    from edgeyolo.heads import JointHead, head_of

    for module, raw in json.loads(sys.argv[4]).items():
        decode: Any = msgspec.convert(raw, Decode)
        if module == name:
            expect(UnknownNameError, raw["kind"], lambda d=decode: head_of(d))
            continue
        head = head_of(decode)
        maps = [np.zeros(shape, np.float32) for shape in head.map_shapes(2, (64, 64))]
        if isinstance(head, JointHead):
            assert head.decode_joints(maps[0][None]).shape == (1, 2, 3)
            continue
        boxes_xyxy, scores, class_ids = head.decode(maps, score_threshold=0.0)
        assert len(boxes_xyxy) == len(scores) == len(class_ids) > 0


def check_formats(name: str, _: Path) -> None:
    """The others are read; a data set of the lost one is of no known format."""
    from edgeyolo.data.dataset import open_dataset

    for path, reader in json.loads(sys.argv[4]).items():
        if reader == name:
            expect(DataError, "no data set of a known format", lambda p=path: open_dataset(p, "train"))
        else:
            assert [len(sample.class_ids) for sample in open_dataset(path, "train")] == [2, 1, 0]


def check_programs(name: str, folder: Path) -> None:
    """The others are written for; a target of the lost one says so."""
    from edgeyolo import handoffs, verbs
    from edgeyolo.spec.target import list_targets, load_target

    programs = {target: load_target(target).program for target in list_targets()}
    assert set(programs.values()) - {""} == {*handoffs.list_programs(), name}
    for target, program in programs.items():
        if program == name:
            expect(UnknownNameError, name, lambda t=target: verbs.deploy(folder / "model", t, folder / "lost"))
        elif program:
            verbs.deploy(folder / "model", target, folder / program)
            assert (folder / program / "model.onnx").is_file()


def guests(room: str) -> list[str]:
    """Modules of a room without a leading underscore."""
    package = importlib.import_module(f"edgeyolo.{room}")
    return [found.name for found in pkgutil.iter_modules(package.__path__) if not found.name.startswith("_")]


def import_all(*rooms: str) -> None:
    """Every module of these rooms."""
    for room in rooms:
        package = importlib.import_module(f"edgeyolo.{room}")
        for found in pkgutil.walk_packages(getattr(package, "__path__", []), f"edgeyolo.{room}."):
            importlib.import_module(found.name)


def run_command(*words: str) -> Any:
    """What `edgeyolo WORDS --json` says."""
    from edgeyolo.cli.app import main as command

    said = io.StringIO()
    sys.argv[1:], kept = [*words, "--json"], sys.argv[1:]
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        command()
    sys.argv[1:] = kept
    return json.loads(said.getvalue())


def expect(kind: type[EdgeYoloError], text: str, call: Callable[[], object]) -> None:
    """`call` raises this error, whose message has `text`."""
    try:
        call()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no {kind.__name__} about {text}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
