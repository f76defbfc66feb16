"""Vectors of boxes by a deployed network, against the network itself on pictures that are cut out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeyolo import verbs
from edgeyolo.geometry.network_input import make_input
from edgeyolo.runtime import Detector
from edgeyolo.runtime.appearance import Appearance
from edgeyolo.spec.detections import Detections
from edgeyolo.tracking import Tracker

FRAME = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)


@pytest.fixture(scope="module")
def bundle(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("appearance") / "random.eyb"
    verbs.deploy(model_folder, "host-onnx", path)
    return path


def test_a_vector_is_the_mean_of_what_the_network_says_of_a_box(bundle: Path) -> None:
    boxes_xyxy = np.array([[10.2, 20.9, 49.5, 80.0], [100, 70, 200, 300], [-50, -50, -20, -20]])
    cut = [FRAME[20:80, 10:50], FRAME[70:, 100:], FRAME[:1, :1]]
    with Appearance(bundle) as looks, Detector.load(bundle) as detector:
        vectors = looks(FRAME, boxes_xyxy)
        for vector, picture in zip(vectors, cut, strict=True):
            maps = detector._session.run(make_input(picture, detector.spec.input)[0])
            expected = np.concatenate([level[0].mean(axis=(1, 2)) for level in maps])
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_a_tracker_takes_it(bundle: Path) -> None:
    found = Detections(np.array([[10.0, 20, 50, 80], [60, 20, 100, 80]]), np.array([0.9, 0.8]), np.array([0, 0]))
    with Appearance(bundle) as looks:
        tracker = Tracker("botsort", embed=looks)
        for _ in range(3):
            assert tracker.update(found, FRAME).track_ids.tolist() == [1, 2]
