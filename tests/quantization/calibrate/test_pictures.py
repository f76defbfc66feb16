"""Calibration pictures: the choice, the preprocessing, and the record."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from bccd import BCCD, needs_bccd

from edgeyolo.data.dataset import Dataset, Record, make_report, open_dataset
from edgeyolo.data.report import ProblemLog
from edgeyolo.geometry.network_input import make_input
from edgeyolo.quantization import calibration_pictures, quantize
from edgeyolo.spec.errors import QuantizationError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.recipe import Recipe

SPEC = InputSpec(image_hw=(64, 96), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def make_dataset(folder: Path, count: int) -> Dataset:
    records = []
    for i in range(count):
        image = np.random.default_rng(i).integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), image)
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        records.append(Record(path, f"picture-{i}", (40 + i, 50), *none))
    return Dataset("drawn", "train", ("a",), records, make_report("drawn", "train", ("a",), records, ProblemLog()))


def test_pictures_are_what_the_runtime_would_feed(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 6)
    pictures, hashes = calibration_pictures(dataset, SPEC, count=4, seed=3)
    assert len(pictures) == len(list(pictures)) == len(hashes) == 4
    for (image_id, digest), tensor in zip(hashes.items(), pictures, strict=True):
        record = next(r for r in dataset.records if r.image_id == image_id)
        assert digest == hashlib.sha256(record.image_path.read_bytes()).hexdigest()
        expected, _ = make_input(np.asarray(cv2.imread(str(record.image_path)), np.uint8), SPEC)
        np.testing.assert_array_equal(tensor.numpy(), expected)
        assert tensor.dtype == torch.float32


def test_the_choice_depends_on_the_seed_alone(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, 8)
    turned = Dataset(dataset.name, "train", dataset.class_names, dataset.records[::-1], dataset.report)
    chosen = list(calibration_pictures(dataset, SPEC, count=5, seed=1)[1])
    assert chosen == list(calibration_pictures(turned, SPEC, count=5, seed=1)[1])
    assert chosen != list(calibration_pictures(dataset, SPEC, count=5, seed=2)[1])
    assert len(set(chosen)) == 5


def test_too_few_pictures_warn_and_none_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pictures, _ = calibration_pictures(make_dataset(tmp_path, 2), SPEC, count=5)
    assert len(pictures) == 2
    assert "5 calibration pictures were asked for, there are 2" in caplog.text
    with pytest.raises(QuantizationError, match="no pictures"):
        calibration_pictures(make_dataset(tmp_path, 0), SPEC, count=5)
    with pytest.raises(QuantizationError, match="0 pictures asked for"):
        calibration_pictures(make_dataset(tmp_path, 2), SPEC, count=0)


@needs_bccd
def test_real_pictures_calibrate_a_network() -> None:
    pictures, hashes = calibration_pictures(open_dataset(BCCD, "train"), InputSpec(image_hw=(96, 96)), count=3)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1))
    quantized = quantize(
        model, pictures, Recipe(title="", observer="max"), recipe_name="int8-max", picture_hashes=hashes
    )
    assert quantized.calibration.pictures == hashes
    largest = max(float(picture.abs().max()) for picture in pictures)
    assert quantized.scales.groups["g0"] == pytest.approx(largest / 127, rel=1e-6)


def test_an_unreadable_picture_is_replaced_by_the_next_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = make_dataset(tmp_path, 6)
    _, before = calibration_pictures(dataset, SPEC, count=6, seed=3)
    broken = list(before)[1]
    path = next(record.image_path for record in dataset.records if record.image_id == broken)
    path.write_bytes(path.read_bytes()[:60])
    with caplog.at_level(logging.WARNING):
        pictures, hashes = calibration_pictures(dataset, SPEC, count=3, seed=3)
    assert list(hashes) == [name for name in before if name != broken][:3]
    assert len(list(pictures)) == 3 and path.name in caplog.text
    for record in dataset.records:
        record.image_path.write_bytes(b"")
    with pytest.raises(QuantizationError, match="no picture can be read"):
        calibration_pictures(dataset, SPEC, count=3)
