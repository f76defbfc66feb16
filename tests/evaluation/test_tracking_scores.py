"""MOTA, IDF1 and HOTA against figures of TrackEval 1.3.0, and against cases that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeyolo.evaluation.mot_files import MotRows, find_sequences, read_rows
from edgeyolo.evaluation.tracking_scores import count_tracks
from edgeyolo.spec.errors import DataError


def as_rows(rows: list[list[float]], *, marks: object = None, class_ids: object = None) -> MotRows:
    """From frame, id, x1, y1, x2, y2."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    ones = np.ones(len(table))
    return MotRows(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        table[:, 2:],
        ones if marks is None else np.asarray(marks, np.float64),
        ones.astype(np.int64) if class_ids is None else np.asarray(class_ids, np.int64),
    )


def make_case(seed: int) -> tuple[MotRows, MotRows]:
    """Objects that cross, and tracks that miss them, change ids, and find what is not there."""
    rng = np.random.default_rng(seed)
    count, truth, tracks = int(rng.integers(2, 7)), [], []
    corner_xy, speed_xy, ids, next_id = rng.uniform(0, 200, (count, 2)), rng.normal(0, 3, (count, 2)), [*range(50)], 100
    for frame in range(1, 41):
        corner_xy = corner_xy + speed_xy
        if rng.random() < 0.1:
            i, j = rng.integers(count, size=2)
            ids[i], ids[j] = ids[j], ids[i]
        for k in range(count):
            box = np.concatenate([corner_xy[k], corner_xy[k] + 40])
            if rng.random() < 0.9:
                truth.append([frame, k + 1, *box])
            if rng.random() < 0.03:
                ids[k], next_id = next_id, next_id + 1
            if rng.random() < 0.85:
                tracks.append([frame, ids[k], *(box + rng.normal(0, 5, 4))])
        if rng.random() < 0.2:
            false_xy = rng.uniform(0, 200, 2)
            tracks.append([frame, next_id, *false_xy, *(false_xy + 30)])
            next_id += 1
    return as_rows(truth), as_rows(tracks)


@pytest.mark.parametrize(
    ("seed", "hota", "det_a", "ass_a", "mota", "idf1", "switches"),
    [
        (0, 40.35348666, 51.61697697, 31.72883505, 66.96832579, 59.15492958, 9),
        (1, 28.37154211, 49.94759068, 16.21091751, 52.02702703, 41.09589041, 11),
        (2, 35.58064499, 50.99787652, 25.02546447, 61.46788991, 53.82830626, 19),
        (3, 38.20587209, 50.77034328, 28.82176470, 59.09090909, 49.88662132, 15),
    ],
)
def test_figures_are_those_of_trackeval(
    seed: int, hota: float, det_a: float, ass_a: float, mota: float, idf1: float, switches: int
) -> None:
    score = count_tracks(*make_case(seed)).score()
    found = (score.hota, score.det_a, score.ass_a, score.mota, score.idf1)
    assert found == pytest.approx((hota, det_a, ass_a, mota, idf1), abs=1e-7)
    assert score.id_switches == switches


def walk(ids: list[int], x: float = 0.0) -> list[list[float]]:
    """One box that stands still, with an id in each frame; 0 for no box."""
    return [[frame, track_id, x, 0, x + 10, 10] for frame, track_id in enumerate(ids, 1) if track_id]


@pytest.mark.parametrize(
    ("ids", "mota", "idf1", "hota"),
    [
        ([7] * 10, 100, 100, 100),
        ([7] * 5 + [8] * 5, 90, 50, 100 * 0.5**0.5),  # association: 5 of 10 boxes for each
        ([7] * 5 + [0] * 5, 50, 100 * 5 / 7.5, 50),  # detection and association: 5 of 10
        ([0] * 10, 0, 0, 0),
    ],
)
def test_cases_counted_by_hand(ids: list[int], mota: float, idf1: float, hota: float) -> None:
    score = count_tracks(as_rows(walk([1] * 10)), as_rows(walk(ids))).score()
    assert (score.mota, score.idf1, score.hota) == pytest.approx((mota, idf1, hota))


def test_sequences_together_are_their_boxes_together() -> None:
    good = count_tracks(as_rows(walk([1] * 30)), as_rows(walk([7] * 30)))
    bad = count_tracks(as_rows(walk([1] * 10)), as_rows(walk([0] * 10)))
    both = (good + bad).score()
    assert (both.boxes, both.objects, both.mota) == (40, 2, 75)
    assert both.hota == pytest.approx(100 * 0.75**0.5)


def test_what_does_not_count_is_neither_missed_nor_false() -> None:
    rows = walk([1] * 10) + walk([2] * 10, x=50) + walk([3] * 10, x=100)
    marks, classes = [1] * 10 + [0] * 20, [1] * 10 + [8] * 10 + [3] * 10
    truth = as_rows(rows, marks=marks, class_ids=classes)
    on_distractor = count_tracks(truth, as_rows(walk([7] * 10) + walk([8] * 10, x=50))).score()
    assert (on_distractor.mota, on_distractor.false_positives, on_distractor.boxes) == (100, 0, 10)
    on_car = count_tracks(truth, as_rows(walk([7] * 10) + walk([8] * 10, x=100))).score()
    assert (on_car.mota, on_car.false_positives) == (0, 10)


def test_files_are_read_and_what_is_wrong_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "MOT17-02"
    (folder / "gt").mkdir(parents=True)
    (folder / "gt" / "gt.txt").write_text("1,1,10,20,30,40,1,1,0.5\n2,1,11,20,30,40,0,8,0.5\n")
    (folder / "seqinfo.ini").write_text("[Sequence]\nname=MOT17-02\nimDir=frames\nframeRate=14\n")
    for place in (tmp_path, folder):
        (sequence,) = find_sequences(place)
        assert (sequence.name, sequence.frame_rate, sequence.pictures.name) == ("MOT17-02", 14, "frames")
    rows = sequence.ground_truth
    assert rows.boxes_xyxy.tolist() == [[10, 20, 40, 60], [11, 20, 41, 60]]
    assert (rows.marks.tolist(), rows.class_ids.tolist()) == ([1, 0], [1, 8])
    with pytest.raises(DataError, match="no pictures"):
        sequence.list_frames()
    with pytest.raises(DataError, match="no sequence with ground truth"):
        find_sequences(folder / "gt")
    path = tmp_path / "tracks.txt"
    for written, said in (
        ("1,1,10,20,30", "line 1: is no box"),
        ("1 1 10 20 30 40\n\n0,1,10,20,30,40", "line 3: is no box"),
        ("1,1,10,20,0,40", "is no box"),
        ("1,1,10,20,x,40", "is no box"),
        ("1,1,10,20,30,40\n1,1,50,20,30,40", "id 1 twice in frame 1"),
    ):
        path.write_text(written)
        with pytest.raises(DataError, match=said):
            read_rows(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "nothing.txt")
