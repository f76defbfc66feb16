"""Detections to and from supervision and COCO: the packages themselves read what we write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeyolo.runtime import Detections
from edgeyolo.runtime.exchange import (
    coco_from_detections,
    detections_from_coco,
    detections_from_supervision,
    supervision_from_detections,
)
from edgeyolo.spec.errors import DataError

FOUND = Detections(
    np.array([[10, 20, 40, 60], [5, 5, 9, 11]], np.float32), np.array([0.9, 0.4], np.float32), np.array([2, 0])
)
NAMES = ("ant", "bee", "cat")


def assert_same(one: Detections, other: Detections) -> None:
    np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-5)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-7)
    np.testing.assert_array_equal(one.class_ids, other.class_ids)


@pytest.mark.parametrize("found", [FOUND, Detections.empty()])
def test_supervision_and_back(found: Detections) -> None:
    supervision = pytest.importorskip("supervision", reason="its Detections are compared")
    theirs = supervision_from_detections(found, NAMES)
    assert isinstance(theirs, supervision.Detections) and len(theirs) == len(found)
    assert_same(detections_from_supervision(theirs), found)
    assert_same(detections_from_supervision(theirs[::-1]), found)  # best first again


def test_supervision_names_and_filters_them() -> None:
    pytest.importorskip("supervision", reason="its Detections are compared")
    theirs = supervision_from_detections(FOUND, NAMES)
    assert [*theirs["class_name"]] == ["cat", "ant"]
    assert theirs[theirs.confidence > 0.5].area.tolist() == [30 * 40]
    theirs.confidence = None
    with pytest.raises(DataError, match="no confidence"):
        detections_from_supervision(theirs)


def test_pycocotools_counts_what_is_written_for_coco(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="it reads the rows")
    categories = (7, 8, 9)
    truth = {
        "images": [{"id": 3, "width": 64, "height": 64}],
        "categories": [{"id": category, "name": name} for category, name in zip(categories, NAMES, strict=True)],
        "annotations": [],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    rows = json.loads(json.dumps(coco_from_detections(FOUND, 3, categories)))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    read = coco.COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "rows.json"))
    assert [(row["category_id"], row["area"]) for row in read.anns.values()] == [(9, 30 * 40), (7, 4 * 6)]
    assert_same(detections_from_coco(reversed(rows), categories)[3], FOUND)
    assert_same(detections_from_coco(coco_from_detections(FOUND, "a.jpg"))["a.jpg"], FOUND)
    assert coco_from_detections(Detections.empty(), 3) == [] and detections_from_coco([]) == {}


@pytest.mark.parametrize("row", [{"image_id": 1}, {"image_id": 1, "bbox": [0], "category_id": 7, "score": 1}])
def test_a_row_that_is_none_says_which(row: dict[str, object]) -> None:
    with pytest.raises(DataError, match="row 0 is not one of COCO's results"):
        detections_from_coco([row])


def test_a_category_that_is_not_known_is_no_class() -> None:
    with pytest.raises(DataError, match="row 1"):
        detections_from_coco(coco_from_detections(FOUND, 1), (2,))
