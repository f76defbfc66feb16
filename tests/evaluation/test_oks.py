"""AP of joints, against similarities counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgeyolo.data.drawn_figures import draw_figures
from edgeyolo.data.keypoints import open_people
from edgeyolo.data.person_crops import PersonCrops
from edgeyolo.evaluation.oks import score_persons, score_poses
from edgeyolo.spec.errors import DataError
from edgeyolo.spec.joints import joint_sigmas
from edgeyolo.spec.poses import Poses


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> PersonCrops:
    folder = draw_figures(tmp_path_factory.mktemp("oks") / "figures", {"val": 8}, image_hw=(240, 320))
    return open_people(folder, "val", (64, 48))


def moved(people: PersonCrops, row: int, by: float) -> Poses:
    """The person's joints, each moved by so many times its sigma times the person's size."""
    joints = people.people.joints[row].copy()
    joints[:, 0] += by * 2 * np.array(joint_sigmas(people.class_names)) * np.sqrt(people.people.areas[row])
    joints[:, 2] = 0.9
    return Poses(joints[None].astype(np.float32))


def similarity(by: float) -> float:
    """OKS = mean of exp(-d^2 / (2 (2 sigma)^2 area))."""
    return float(np.exp(-(by**2) / 2))


@pytest.mark.parametrize("by", [0.0, 0.5, 0.8, 1.0, 1.3])
def test_ap_is_the_part_of_thresholds_that_the_similarity_reaches(people: PersonCrops, by: float) -> None:
    score = score_persons({row: moved(people, row, by) for row in range(len(people))}, people, artefact="x")
    reached = np.arange(0.5, 0.99, 0.05) <= similarity(by)
    assert score.ap == pytest.approx(100 * reached.mean(), abs=1e-6)
    assert score.ap50 == 100 * (similarity(by) > 0.5) and score.ap75 == 100 * (similarity(by) > 0.75)
    assert (score.boxes, score.images, score.ap_small) == (len(people), len(set(people.people.picture.tolist())), -1)


def test_persons_of_whom_nothing_is_said_do_not_count(people: PersonCrops) -> None:
    assert score_persons({0: moved(people, 0, 0)}, people, artefact="x").ap == 100
    with pytest.raises(DataError, match="no picture can be read"):
        score_persons({}, people, artefact="x")


def test_false_persons_of_a_detector_cost_by_their_score(people: PersonCrops) -> None:
    rows = range(len(people))
    true = {int(people.people.picture[row]): [] for row in rows}
    for row in rows:
        true[int(people.people.picture[row])].append((moved(people, row, 0), np.array([0.8], np.float32)))
    far = Poses(np.full((1, 17, 3), 0.9, np.float32))
    weak = {picture: [*parts, (far, np.array([0.1], np.float32))] for picture, parts in true.items()}
    strong = {picture: [*parts, (far, np.array([1.0], np.float32))] for picture, parts in true.items()}
    scores = [score_poses(found, people.people, people, artefact="x").ap for found in (true, weak, strong)]
    assert scores[0] == scores[1] == 100 and scores[2] < 80


def test_a_pose_is_as_sure_as_its_sure_joints() -> None:
    keypoints = np.zeros((2, 3, 3), np.float32)
    keypoints[0, :, 2] = (0.5, 0.9, 0.1)
    assert Poses(keypoints).scores.tolist() == pytest.approx([0.7, 0.0])
    told = Poses(keypoints).as_dicts(("a", "b", "c"))
    assert told[0] == {"score": 0.7, "keypoints": {"a": [0, 0, 0.5], "b": [0, 0, 0.9], "c": [0, 0, 0.1]}}
