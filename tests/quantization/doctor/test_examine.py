"""Faults planted one by one in the pictures of a trained detector; none where nothing is planted."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import cv2
import msgspec
import numpy as np
import pytest
import torch
from bccd import BCCD, needs_bccd
from whole_way import WholeWay

from edgeyolo.data.dataset import open_dataset
from edgeyolo.quantization.calibrate.pictures import calibration_pictures
from edgeyolo.quantization.calibrate.ranges import calibrate, trace_deploy_form
from edgeyolo.quantization.doctor import Examination, examine, examine_scales
from edgeyolo.quantization.placement.groups import find_placement
from edgeyolo.spec.recipe import Recipe
from edgeyolo.training.checkpoint import Checkpoint, load_checkpoint

Image: TypeAlias = np.ndarray


@pytest.fixture(scope="module")
def trained(whole_way: WholeWay) -> Checkpoint:
    return load_checkpoint(whole_way.run)


def look(trained: Checkpoint, data: Path, *, count: int = 256, std: float = 1.0) -> Examination:
    spec = msgspec.structs.replace(trained.record.model.input, std=(std,) * 3)
    pictures, _ = calibration_pictures(open_dataset(data, "train"), spec, count=count)
    return examine(trained.model, pictures, spec, [open_dataset(data, split) for split in ("val", "test")])


def faults(examined: Examination) -> dict[str, str]:
    """Fault -> verdict; each says its number and what to do."""
    for found in examined.findings:
        assert found.value != found.limit and len(found.what) > 10 and len(found.hint) > 10
    return {found.fault: found.verdict for found in examined.findings}


def changed(
    whole_way: WholeWay, folder: Path, change: Callable[[Image], Image], splits: tuple[str, ...] = ("train",)
) -> Path:
    """A copy of the data with other pictures in some splits."""
    shutil.copytree(whole_way.data, folder)
    for split in splits:
        for path in (folder / "images" / split).iterdir():
            cv2.imwrite(str(path), change(cv2.imread(str(path))))
    return folder


def test_nothing_is_found_where_nothing_is_wrong(trained: Checkpoint, whole_way: WholeWay) -> None:
    examined = look(trained, whole_way.data)
    assert not examined.findings
    deploy = trace_deploy_form(trained.model)
    placement = find_placement(deploy)
    pictures, _ = calibration_pictures(open_dataset(whole_way.data, "train"), trained.record.model.input, count=16)
    scales, _ = calibrate(deploy, placement, pictures, Recipe(title="mse"))
    assert not examine_scales(examined, placement, scales)
    tight = dataclasses.replace(scales, groups={name: scale / 8 for name, scale in scales.groups.items()})
    (found,) = examine_scales(examined, placement, tight)
    assert (found.fault, found.verdict) == ("saturation", "warned") and found.value > found.limit


@pytest.mark.parametrize("splits", [("train",), ("train", "val", "test")], ids=["in training", "everywhere"])
def test_colours_in_another_order(
    trained: Checkpoint, whole_way: WholeWay, tmp_path: Path, splits: tuple[str, ...]
) -> None:
    """What training saw is the reference, so the validation set may be as wrong."""
    data = changed(whole_way, tmp_path / "data", lambda image: image[..., ::-1], splits)
    assert faults(look(trained, data))["colour-order"] == "refused"


@pytest.mark.parametrize("std", [1 / 255, 255.0], ids=["0-255 for 0-1", "0-1/255 for 0-1"])
def test_values_of_another_range(trained: Checkpoint, whole_way: WholeWay, std: float) -> None:
    assert faults(look(trained, whole_way.data, std=std)) == {"value-range": "refused"}


def test_ten_pictures(trained: Checkpoint, whole_way: WholeWay) -> None:
    examined = look(trained, whole_way.data, count=10)
    assert faults(examined) == {"few-pictures": "warned"} and examined.findings[0].value == 10


@needs_bccd
def test_another_domain(trained: Checkpoint, whole_way: WholeWay, tmp_path: Path) -> None:
    """Photographs, for a model of drawings."""
    shutil.copytree(whole_way.data, tmp_path / "data")
    for name, path in zip(
        sorted((tmp_path / "data/images/train").iterdir()), sorted((BCCD / "JPEGImages").iterdir()), strict=False
    ):
        cv2.imwrite(str(name), cv2.imread(str(path)))
    assert faults(look(trained, tmp_path / "data")) == {"unlike-validation": "refused"}


@pytest.mark.parametrize("is_stored_anew", [False, True], ids=["the same files", "stored in another way"])
def test_the_validation_set_itself(
    trained: Checkpoint, whole_way: WholeWay, tmp_path: Path, is_stored_anew: bool
) -> None:
    data = changed(whole_way, tmp_path / "data", lambda image: image, splits=())
    for path in (data / "images/val").iterdir():
        other = data / "images/train" / f"also-{path.name}"
        if is_stored_anew:
            cv2.imwrite(str(other.with_suffix(".jpg")), cv2.imread(str(path)), [cv2.IMWRITE_JPEG_QUALITY, 80])
        else:
            shutil.copy(path, other)
    assert faults(look(trained, data)) == {"held-out": "refused"}


def test_copies(trained: Checkpoint, whole_way: WholeWay, tmp_path: Path) -> None:
    data = changed(whole_way, tmp_path / "data", lambda image: image, splits=())
    paths = sorted((data / "images/train").iterdir())
    for i, path in enumerate(paths[20:]):
        cv2.imwrite(str(path), cv2.GaussianBlur(cv2.imread(str(paths[i % 20])), (3, 3), 0))
    found = {one.fault: one for one in look(trained, data).findings}
    assert found["duplicates"].verdict == "refused" and found["few-pictures"].value == 20
    assert found["duplicates"].value == pytest.approx(1 - 20 / len(paths), abs=1e-4)


def test_all_dark(trained: Checkpoint, whole_way: WholeWay, tmp_path: Path) -> None:
    data = changed(whole_way, tmp_path / "dark", lambda image: (image * 0.06).astype(np.uint8))
    assert faults(look(trained, data))["dark"] == "refused"
    data = changed(
        whole_way, tmp_path / "night", lambda image: (image * 0.06).astype(np.uint8), ("train", "val", "test")
    )
    assert faults(look(trained, data))["dark"] == "warned"


def test_a_channel_of_the_camera_that_is_dead(trained: Checkpoint, whole_way: WholeWay, tmp_path: Path) -> None:
    data = changed(whole_way, tmp_path / "data", lambda image: image * np.array([0, 1, 1], np.uint8))
    examined = look(trained, data)
    assert faults(examined)["dead-channel"] == "refused"
    assert "blue" in next(found.what for found in examined.findings if found.fault == "dead-channel")


def test_channels_of_the_network_that_are_dead(trained: Checkpoint, whole_way: WholeWay) -> None:
    """One that is dead everywhere is the network's own and no word is lost on it; on half a tensor one is."""
    expected = {1: {}, 16: {"dead-channel": "warned"}}
    for count, said in expected.items():
        again = load_checkpoint(whole_way.run)
        norm = next(module for module in again.model.modules() if isinstance(module, torch.nn.BatchNorm2d))
        with torch.no_grad():
            for values in (norm.weight, norm.bias):
                values[:count] = 0
        found = {one.fault: one for one in look(again, whole_way.data).findings}
        assert {name: one.verdict for name, one in found.items() if name == "dead-channel"} == said
