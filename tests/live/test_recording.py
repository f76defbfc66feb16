"""What is kept of what was seen, within limits, whole after a crash, and how it becomes a data set that trains."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from live_page import serving, wait_until

from edgeyolo.data.dataset import open_dataset
from edgeyolo.data.image_file import read_image
from edgeyolo.live.record import RecordedObject, Recorder, Recording, list_recordings
from edgeyolo.live.recorded import make_dataset
from edgeyolo.live.state import SourceState
from edgeyolo.runtime.clock import Timing
from edgeyolo.spec.detections import Detections
from edgeyolo.spec.errors import DataError, FormatError, OutputError
from edgeyolo.spec.serving import RecordingsOptions, RecordOptions, ServeOptions
from edgeyolo.spec.strict import encode_json, load_json

NAMES = ("cat", "dog")
TIMING = Timing(1, 2, 3)


def image(seed: int = 0, hw: tuple[int, int] = (60, 80)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


def seen(*class_ids: int) -> Detections:
    count = len(class_ids)
    boxes = np.array([[8, 6, 40, 30]] * count, np.float32).reshape(-1, 4)
    return Detections(boxes, np.linspace(0.9, 0.5, count).astype(np.float32), np.array(class_ids, np.int64))


def record_all(folder: Path, options: RecordOptions, count: int, classes: tuple[str, ...] = NAMES) -> Recorder:
    """So many pictures, each with a cat that appears."""
    with Recorder(folder, options, NAMES, classes, "m") as recorder:
        for number in range(count):
            recorder.offer("yard", image(number), seen(0), {"cat"})
            done = number + 1
            wait_until(lambda wanted=done: recorder.kept + recorder.left_out >= wanted, 5)
            time.sleep(0.002)  # a name is a time in milliseconds
    return recorder


def test_a_class_appears_when_it_was_away_for_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    state = SourceState("yard", NAMES, NAMES, absence_s=5.0)
    appeared = []
    for at_s, found in [(0, seen()), (1, seen(0)), (2, seen(0, 1)), (3, seen()), (7, seen(0)), (12.1, seen(0, 1, 1))]:
        now[0] = 100.0 + at_s
        appeared.append(state.note(image(), found, TIMING))
    assert appeared == [set(), {"cat"}, {"dog"}, set(), set(), {"cat", "dog"}]
    assert state.status().appeared == {"cat": 2, "dog": 2} and state.status().counts == {"cat": 1, "dog": 2}


def test_a_picture_is_kept_with_what_was_found(tmp_path: Path) -> None:
    with Recorder(tmp_path, RecordOptions(), NAMES, ("dog",), "m") as recorder:
        recorder.offer("front door", image(), seen(0, 1), {"cat"})  # not asked for
        recorder.offer("front door", image(), seen(0, 1), {"cat", "dog"})
        recorder.offer("front door", image(), seen(1), {"dog"})  # too soon
        recorder.offer("yard", image(), seen(1), {"dog"})
    first, second = list_recordings(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jpg", ".jpg", ".json", ".json"]
    found = load_json((first if "front" in first.name else second).with_suffix(".json"), Recording)
    assert found.source == "front door" and found.appeared == ("dog",) and found.image_hw == (60, 80)
    assert [(each.class_name, each.box_xyxy) for each in found.objects] == [
        ("cat", (8, 6, 40, 30)),
        ("dog", (8, 6, 40, 30)),
    ]
    assert read_image(first).shape == (60, 80, 3) and recorder.kept == 2


def test_the_oldest_make_room(tmp_path: Path) -> None:
    options = RecordOptions(record_every=0.0, record_limit_mib=0.05)
    recorder = record_all(tmp_path, options, 12)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    kept = list_recordings(tmp_path)
    assert recorder.kept == 12 and recorder.removed == 12 - len(kept) > 3 and size <= 0.05 * 2**20
    assert len(list(tmp_path.iterdir())) == 2 * len(kept)
    again = record_all(tmp_path, options, 1)  # what earlier runs kept counts too
    assert again.removed >= 1 and list_recordings(tmp_path)[-1] not in kept


def test_or_recording_stops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = record_all(tmp_path, RecordOptions(record_every=0.0, record_limit_mib=0.05, record_full="stop"), 12)
    assert recorder.removed == 0 and recorder.left_out == 12 - recorder.kept > 3
    assert caplog.text.count("recording has stopped") == 1
    assert len(list_recordings(tmp_path)) == recorder.kept


def test_a_disk_that_fails_is_said_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, raw: bytes) -> None:
        raise OutputError("cannot be written (No space left on device)", where=path)

    (tmp_path / "a").mkdir()
    with Recorder(tmp_path / "a", RecordOptions(record_every=0), NAMES, NAMES, "m") as recorder:
        monkeypatch.setattr("edgeyolo.live.record.write_file", fail)
        for number in range(4):
            recorder.offer("yard", image(number), seen(0), {"cat"})
            wait_until(lambda wanted=number + 1: recorder.left_out == wanted)
        assert caplog.text.count("No space left") == 1
        monkeypatch.undo()
        recorder.offer("yard", image(), seen(0), {"cat"})
    assert recorder.kept == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Recorder(tmp_path / "file" / "x", RecordOptions(), NAMES, NAMES, "m")


def write_recording(
    folder: Path, name: str, source: str, detections: Detections, names: tuple[str, ...] = NAMES
) -> None:
    rows = zip(detections.boxes_xyxy.tolist(), detections.scores.tolist(), detections.class_ids.tolist(), strict=True)
    recording = Recording(
        source=source,
        time="",
        image_hw=(60, 80),
        appeared=(),
        class_names=names,
        model="m",
        objects=tuple(RecordedObject(box_xyxy=tuple(box), score=score, class_name=names[i]) for box, score, i in rows),
    )
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_bytes(encode_json(recording))
    cv2.imwrite(str(folder / f"{name}.jpg"), image(len(name)))


def test_recordings_become_a_data_set(tmp_path: Path) -> None:
    """Boxes as they were detected, to a part of a pixel; of each source the latest for validation."""
    folder = tmp_path / "kept"
    for number in range(10):
        write_recording(folder, f"2026{number:02}-yard", "yard", seen(number % 2, 1))
    write_recording(folder, "202605-gate", "gate", seen())
    (folder / "cut.jpg").write_bytes(b"without its JSON")
    made = make_dataset(folder, RecordingsOptions(out=tmp_path / "data", score_threshold=0.6))
    assert made.counts == {"train": 9, "val": 2} and made.boxes == 10  # the second of each has a score of 0.5
    train, val = open_dataset(tmp_path / "data", "train"), open_dataset(tmp_path / "data", "val")
    assert train.class_names == NAMES and len(train) == 9 and len(val) == 2
    assert [Path(val[i].image_id).stem for i in range(2)] == ["202608-yard", "202609-yard"]
    np.testing.assert_allclose(val[1].boxes_xyxy, [[8, 6, 40, 30]], atol=1e-3)
    assert val[1].class_ids.tolist() == [1] and sum(len(train[i].boxes_xyxy) for i in range(9)) == 8
    assert "gate" in "".join(str(train[i].image_id) for i in range(9))


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    options = RecordingsOptions(out=tmp_path / "data")
    with pytest.raises(DataError, match="has no recordings"):
        make_dataset(tmp_path / "empty", options)
    write_recording(tmp_path / "kept", "1", "yard", seen(0))
    write_recording(tmp_path / "kept", "2", "yard", seen(0), ("dog", "cat"))
    with pytest.raises(DataError, match="knows other classes"):
        make_dataset(tmp_path / "kept", options)
    (tmp_path / "kept" / "2.json").write_text("{}")
    with pytest.raises(FormatError):
        make_dataset(tmp_path / "kept", options)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").touch()
    with pytest.raises(OutputError, match="would be lost"):
        make_dataset(tmp_path / "kept", options)


def test_look_label_train(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way: what serve kept is read by what trains."""
    from edgeyolo.cli.app import make_app

    recording = RecordOptions(record=tmp_path / "kept", record_every=0.0, record_absence=0.0)
    with serving(made / "blocks.eyb", [str(made / "yard.avi")], ServeOptions(port=0), recording) as (_, client):
        wait_until(lambda: client.status()["recording"]["kept"] >= 6)
    make_app()(
        ["data", "from-recordings", str(tmp_path / "kept"), "--out", str(tmp_path / "data"), "--json"],
        standalone_mode=False,
    )
    told = json.loads(capsys.readouterr().out)
    dataset = open_dataset(tmp_path / "data", "train")
    assert len(dataset) == told["pictures"]["train"] and dataset.class_names == ("a", "b")
    assert all(len(dataset[i].boxes_xyxy) for i in range(len(dataset)))
