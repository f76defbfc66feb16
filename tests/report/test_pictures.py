"""The worst pictures: the right ones, in the right order, drawn from the right boxes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.report.pairs import Half, draw_pair
from edgeyolo.report.pictures import worst_pictures
from edgeyolo.runtime.draw import class_colour
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.errors import DataError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 1, "val": 6, "test": 1}, seed=1)
    return open_dataset(folder, "val")


class Truth:
    """Reports the annotated objects, but for some that it is told to forget."""

    def __init__(self, dataset: Dataset, forget: dict[str, int]) -> None:
        self.samples = [dataset[i] for i in range(len(dataset))]
        self.forget = forget

    def detect(self, image: Image) -> Detections:
        sample = next(s for s in self.samples if s.image.shape == image.shape and (s.image == image).all())
        kept = len(sample.class_ids) - self.forget.get(sample.image_id, 0)
        scores = np.linspace(0.9, 0.8, kept, dtype=np.float32)
        return Detections(sample.boxes_xyxy[:kept], scores, sample.class_ids[:kept])


def test_the_worst_come_first_and_agreement_is_left_out(dataset: Dataset) -> None:
    ids = [record.image_id for record in dataset.records if len(record.class_ids) > 1]
    assert len(ids) >= 3
    exact, forgetful = Truth(dataset, {}), Truth(dataset, {ids[0]: 1, ids[2]: 2})
    worst, jpegs = worst_pictures(exact.detect, forgetful.detect, dataset, count=4)
    assert [picture.image_id for picture in worst] == [ids[2], ids[0]]
    assert [picture.only_float for picture in worst] == [2, 1]
    assert worst[0].caption.startswith("2 objects only in float, 0 only in int8")
    assert set(jpegs) == {ids[0], ids[2]}
    for jpeg in jpegs.values():
        assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) is not None
    one, _ = worst_pictures(exact.detect, forgetful.detect, dataset, count=1)
    assert one == worst[:1]


def test_no_pictures_is_an_error(dataset: Dataset) -> None:
    empty = Dataset(dataset.name, "val", dataset.class_names, [], dataset.report)
    with pytest.raises(DataError):
        worst_pictures(Truth(empty, {}).detect, Truth(empty, {}).detect, empty)


@pytest.mark.parametrize("side", [400, 1600])
def test_halves_show_their_own_boxes_at_their_own_places(side: int) -> None:
    """A grey picture with float's box at the left and int8's at the right; the truth is elsewhere."""
    image = np.full((side // 2, side, 3), 114, np.uint8)
    unit = side / 400
    truth = np.array([[150, 60, 250, 140]], np.float32) * unit

    def found(left: float) -> Half:
        box = np.array([[left, 80, left + 60, 140]], np.float32) * unit
        detections = Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64))
        return Half("found", outlined_xyxy=truth, detections=detections)

    pair = draw_pair(image, found(10), found(320), ("cell",))
    width = min(side, 640)
    assert pair.shape == (26 + width // 2, 2 * width + 6, 3)
    colour = np.array(class_colour(0))
    halves = {"float": pair[26:, :width], "int8": pair[26:, width + 6 :]}
    for name, left in {"float": 10, "int8": 320}.items():
        columns = np.nonzero((halves[name] == colour).all(-1).any(0))[0] * 400 / width
        assert columns.min() == pytest.approx(left, abs=3)
        assert columns.max() <= left + 100
    white = (halves["float"] == 255).all(-1)
    columns = np.nonzero(white.sum(0) > 0.25 * white.shape[0])[0] * 400 / width
    assert columns.min() == pytest.approx(150, abs=2) and columns.max() == pytest.approx(250, abs=2)
