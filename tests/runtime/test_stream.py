"""Frames from real files."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeyolo.runtime.stream import list_pictures, open_stream
from edgeyolo.spec.errors import DataError, ImageError


def save_picture(path: Path, value: int) -> None:
    assert cv2.imwrite(str(path), np.full((8, 12, 3), value, np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("b.png", "a.jpg", "C.PNG")):
        save_picture(tmp_path / name, 10 * i)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_picture_a_folder_and_a_pattern(folder: Path) -> None:
    assert [(n, int(f[0, 0, 0])) for n, f in open_stream(folder / "b.png")] == [("b.png", 0)]
    assert [name for name, _ in open_stream(str(folder))] == ["C.PNG", "a.jpg", "b.png"]
    assert [name for name, _ in open_stream(folder / "*.png")] == ["b.png"]
    (folder / "deep").mkdir()
    save_picture(folder / "deep" / "d.png", 1)
    assert [name for name, _ in open_stream(folder / "**" / "*.png")] == ["b.png", "d.png"]
    frame = next(iter(open_stream(folder / "a.jpg")))[1]
    assert frame.shape == (8, 12, 3) and frame.dtype == np.uint8


def test_pictures_of_a_folder_or_a_pattern_are_listed(folder: Path) -> None:
    assert [path.name for path in list_pictures(folder)] == ["C.PNG", "a.jpg", "b.png"]
    assert list_pictures(folder / "[ab].*") == [folder / "a.jpg", folder / "b.png"]
    assert list_pictures(folder / "a.jpg") == list_pictures(folder / "none") == list_pictures(Path("rtsp://a/b*")) == []
    save_picture(folder / "a[1].jpg", 1)  # the name of a file that is there is not a pattern
    assert list_pictures(folder / "a[1].jpg") == []
    assert [name for name, _ in open_stream(folder / "a[1].jpg")] == ["a[1].jpg"]


def test_a_pattern_in_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert [name for name, _ in open_stream("*.jpg")] == ["a.jpg"]


def test_a_broken_picture_among_others_is_left_out_and_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "aa.jpg").write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING):
        assert [name for name, _ in open_stream(folder)] == ["C.PNG", "a.jpg", "b.png"]
    assert "aa.jpg" in caplog.text
    with pytest.raises(ImageError, match=r"aa\.jpg"):
        open_stream(folder / "aa.jpg")
    with pytest.raises(DataError, match="none of its 1 pictures"):
        list(open_stream(folder / "aa*.jpg"))


def test_a_video_frame_by_frame(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    assert writer.isOpened()
    for value in (0, 120, 240):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    frames = list(open_stream(path))
    assert [name for name, _ in frames] == ["clip-000000", "clip-000001", "clip-000002"]
    np.testing.assert_allclose([frame.mean() for _, frame in frames], [0, 120, 240], atol=3)


def test_what_cannot_be_opened_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_stream(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="has no pictures"):
        open_stream(tmp_path)
    with pytest.raises(DataError, match="has no pictures"):
        open_stream(tmp_path / "*.jpg")
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"clip\.mp4: is no video"):
        open_stream(tmp_path / "clip.mp4")
    with pytest.raises(DataError, match="camera 97"):
        open_stream("97")
