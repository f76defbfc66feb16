"""Training of heat maps: what persons look like, what is refused, and that a run goes on as if never interrupted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from shared import make_once

from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.data.drawn_figures import draw_figures
from edgeyolo.data.keypoints import open_people
from edgeyolo.data.person_crops import PersonCrops
from edgeyolo.spec.errors import DataError, UsageError
from edgeyolo.spec.training import DistillConfig, KeypointsConfig, TrainConfig
from edgeyolo.training import train
from edgeyolo.training.augment_people import AugmentedPeople
from edgeyolo.training.checkpoint import read_tensors
from edgeyolo.training.config import resolve
from edgeyolo.training.order import PictureKey
from edgeyolo.verbs import train as train_verb

STILL = KeypointsConfig(scale=0, degrees=0, turned=0, flip_lr=0, half_body=0)
TINY = TrainConfig(model="hrnet-w18-small", image_size=64, epochs=2, batch=4, workers=0, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": 6, "val": 3}
    return make_once(tmp_path_factory, "figures", lambda folder: draw_figures(folder, counts, image_hw=(96, 128)))


@pytest.fixture(scope="module")
def people(figures: Path) -> PersonCrops:
    return open_people(figures, "train", (64, 64))


def shown(people: PersonCrops, config: KeypointsConfig | None, *, epoch: int = 0, row: int = 0):
    return AugmentedPeople(people, config, seed=0)[PictureKey(epoch, row, True)]


def test_without_augmentation_persons_are_as_the_board_cuts_them_out(people: PersonCrops) -> None:
    for config in (None, STILL):
        sample = shown(people, config)
        np.testing.assert_array_equal(sample.image, people[0].image)
        np.testing.assert_array_equal(sample.boxes_xyxy, people[0].boxes_xyxy)


def test_a_mirror_image_changes_sides(people: PersonCrops) -> None:
    plain, mirrored = people[0], shown(people, msgspec.structs.replace(STILL, flip_lr=1.0))
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])
    names, places = people.class_names, dict(zip(mirrored.class_ids.tolist(), mirrored.boxes_xyxy, strict=True))
    for joint, box in zip(plain.class_ids.tolist(), plain.boxes_xyxy, strict=True):
        other = names[joint].replace("left", "?").replace("right", "left").replace("?", "right")
        assert places[names.index(other)][:2] == pytest.approx((63 - box[0], box[1]))


def test_joints_move_with_the_pixels(people: PersonCrops) -> None:
    """A white dot painted on a joint is where the joint is said to be, however it is turned and scaled."""
    shoulder = people.class_names.index("left_shoulder")
    row = next(i for i in range(len(people)) if people.people.joints[i, shoulder, 2] > 0)
    x, y = people.people.joints[row, shoulder, :2]
    blank = np.zeros((96, 128, 3), np.uint8)
    ys, xs = np.mgrid[0:96, 0:128]
    blank[np.hypot(xs - x, ys - y) < 4] = 255

    class Painted(AugmentedPeople):
        def _read(self, first: int):
            return first, blank

    strong = KeypointsConfig(turned=1.0, flip_lr=0, half_body=0, scale=0.3, degrees=40)
    seen = 0
    for epoch in range(6):
        sample = Painted(people, strong, 0)[PictureKey(epoch, row, True)]
        light = sample.image[..., 0].astype(float)
        place = sample.boxes_xyxy[sample.class_ids.tolist().index(shoulder), :2]
        if light.sum() and (place > 8).all() and (place < 56).all():
            yy, xx = np.mgrid[0:64, 0:64]
            assert (xx * light).sum() / light.sum() == pytest.approx(place[0], abs=0.7)
            assert (yy * light).sum() / light.sum() == pytest.approx(place[1], abs=0.7)
            seen += 1
    assert seen > 2


def test_half_bodies_are_larger(people: PersonCrops) -> None:
    sizes = []
    for config in (STILL, msgspec.structs.replace(STILL, half_body=1.0)):
        points = {int(k): b[:2] for k, b in zip(*_joints(shown(people, config)), strict=True)}
        eyes = [points[people.class_names.index(f"{side}_hip")] for side in ("left", "right")]
        sizes.append(np.linalg.norm(eyes[0] - eyes[1]))
    assert sizes[1] > 1.15 * sizes[0]


def _joints(sample):
    return sample.class_ids, sample.boxes_xyxy


def test_the_size_of_the_model_is_the_default() -> None:
    assert resolve(TrainConfig(model="hrnet-w32")).image_size == "256x192"
    assert resolve(TrainConfig(model="yolov8n")).image_size == 640
    assert resolve(TINY).image_size == 64


def test_a_run_that_is_resumed_ends_as_one_that_was_not(figures: Path, people: PersonCrops, tmp_path: Path) -> None:
    splits = (people, open_people(figures, "val", (64, 64)))
    whole = train(TINY, splits, tmp_path / "whole")
    assert whole.score is not None and whole.score.boxes == len(splits[1])
    assert {"heat", "total"} <= set(whole.history[0].losses)

    def stop(_history) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, splits, tmp_path / "parts", on_epoch=stop)
    resumed = train(TINY, splits, tmp_path / "parts", resume=True)
    assert [row.losses for row in resumed.history] == [row.losses for row in whole.history]
    ours, theirs = (read_tensors(result.last)[0] for result in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name.startswith("model."))


def test_data_and_model_must_be_of_one_task(figures: Path, tmp_path: Path) -> None:
    boxes = draw_dataset(tmp_path / "boxes", {"train": 2, "val": 2}, image_hw=(64, 64), kind="easy")
    with pytest.raises(DataError, match="no COCO data set"):
        train_verb(TINY, boxes, tmp_path / "run")
    with pytest.raises(UsageError, match="finds joints, and the data set has boxes"):
        train(TINY, (open_dataset(boxes, "train"), open_dataset(boxes, "val")), tmp_path / "run")
    persons = open_dataset(figures, "val")  # which a detector may learn
    assert persons.class_names == ("person",) and persons.report.boxes >= 3


@pytest.mark.parametrize("changed", [{"box_loss": "ciou"}, {"teacher": "x"}, {"rep_scales": "y"}])
def test_settings_of_detectors_are_refused(people: PersonCrops, tmp_path: Path, changed: dict) -> None:
    config = msgspec.structs.replace(TINY, distill=DistillConfig(), **changed)
    with pytest.raises(UsageError, match=f"{next(iter(changed))} is set"):
        train(config, (people, people), tmp_path)
