"""Streams: what is dropped, what comes back, what fails, what is left behind. Devices are simulated, files are real."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeyolo.runtime import capture, feed
from edgeyolo.runtime.capture import FrameReader, Source, make_source, show_address
from edgeyolo.runtime.clock import Timing
from edgeyolo.runtime.pipeline import run_stream
from edgeyolo.runtime.video_file import VideoFile
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.errors import BackendError, DataError, OutputError


class Finder:
    """Takes its time over a picture and finds one box, whose class is the picture's grey."""

    def __init__(self, seconds: float = 0.0, fail_at: int = -1) -> None:
        self.seconds, self.fail_at = seconds, fail_at
        self.timing = Timing(0.0, 0.0, 0.0)
        self.seen = 0
        self.threads: set[str] = set()
        self.batch = 1

    def detect_batch(self, images: list[Image]) -> list[Detections]:
        return [self.detect(image) for image in images]

    def detect(self, image: Image) -> Detections:
        self.threads.add(threading.current_thread().name)
        if self.seen == self.fail_at:
            raise BackendError("the engine broke")
        self.seen += 1
        time.sleep(self.seconds)
        self.timing = Timing(1.0, 2.0 + self.seen, 3.0)
        box = np.array([[0, 0, 4, 4]], np.float32)
        return Detections(box, np.ones(1, np.float32), np.array([int(image[0, 0, 0])]))


class Camera:
    """Gives frames of rising grey, one per `seconds`, across connections; connection i ends after `lasts[i]` frames."""

    def __init__(self, *lasts: int, seconds: float = 0.0, broken: Exception | None = None) -> None:
        self.lasts, self.seconds, self.broken = list(lasts), seconds, broken
        self.frame = self.connections = self.released = 0

    def connect(self) -> Camera:
        self.left = self.lasts[self.connections] if self.connections < len(self.lasts) else 0
        self.connections += 1
        return self

    def read(self) -> tuple[bool, Image | None]:
        if self.left == 0:
            if self.broken:
                raise self.broken
            return False, None
        time.sleep(self.seconds)
        self.left -= 1
        self.frame += 1
        return True, np.full((12, 16, 3), (self.frame - 1) % 256, np.uint8)

    def get(self, propId: int) -> float:
        return 0.0

    def release(self) -> None:
        self.released += 1

    def source(self, *, live: bool = True) -> Source:
        return Source("cam", "camera 7", self.connect, live, "Is it plugged in?")


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(capture, "SHORTEST_PAUSE_S", 0.01)
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def grey(detections: Detections) -> int:
    return int(detections.class_ids[0])


def test_a_slow_detector_gets_the_newest_frame_and_the_rest_is_counted() -> None:
    finder, camera = Finder(seconds=0.03), Camera(60, seconds=0.004)
    run = run_stream(finder, camera.source(), reconnect_s=0.0)
    seen = []
    with pytest.raises(DataError, match="camera 7: gives no more frames, after 60"):
        for name, frame, detections in run:
            seen.append(run.index)
            assert name == f"cam-{run.index:06d}"
            assert grey(detections) == frame[0, 0, 0] == run.index
            assert run.timing.network_ms == 2.0 + len(seen)
    summary = run.summarise()
    assert seen == sorted(set(seen)) and seen[-1] == 59
    assert summary.captured == 60 and summary.detected == len(seen) < 40
    assert summary.dropped == 60 - len(seen)
    assert summary.latency["delay"].median_ms < 4 * 30 + 100  # never older than the queues are long
    assert finder.threads == {"edgeyolo-detect"}
    assert camera.released >= 1


def test_every_frame_of_a_live_source_when_asked_for() -> None:
    run = run_stream(Finder(seconds=0.005), Camera(30).source(), every_frame=True, reconnect_s=0.0)
    seen = []
    with pytest.raises(DataError):
        for _, _, detections in run:
            seen.append(grey(detections))
    assert seen == list(range(30))
    assert run.summarise().dropped == 0


def test_every_frame_of_a_file_however_slow_the_reader_is() -> None:
    run = run_stream(Finder(), Camera(25).source(live=False))
    seen = []
    for _, _, detections in run:
        time.sleep(0.002)
        seen.append(grey(detections))
    assert seen == list(range(25))
    assert run.summarise().captured == 25


def test_a_camera_that_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    camera = Camera(5, 0, 0, 4, 0, 3)
    run = run_stream(Finder(), camera.source(), every_frame=True, reconnect_s=0.3)
    seen = []
    with pytest.raises(DataError, match=r"after 12\. Is it plugged in"):
        for name, _, _ in run:
            seen.append(name)
    assert seen == [f"cam-{i:06d}" for i in range(12)]
    assert run.summarise().reconnects == 2
    assert "trying to open it again" in caplog.text and "is back after" in caplog.text
    assert camera.released >= camera.connections  # every connection that was made


def test_stopping_while_a_camera_is_gone_ends_at_once() -> None:
    run = run_stream(Finder(), Camera(3).source(), every_frame=True, reconnect_s=60.0)
    threading.Timer(0.2, run.stop).start()
    started = time.monotonic()
    assert len(list(run)) == 3
    assert time.monotonic() - started < 5


def test_the_exception_of_a_thread_reaches_the_caller() -> None:
    run = run_stream(Finder(fail_at=3), Camera(100).source(live=False))
    seen = []
    with pytest.raises(BackendError, match="the engine broke"):
        for name, _, _ in run:
            seen.append(name)
    assert len(seen) == 3
    run = run_stream(Finder(), Camera(4, broken=MemoryError("no frame buffer")).source(live=False))
    with pytest.raises(MemoryError, match="no frame buffer"):
        list(run)


def test_an_error_of_opencv_is_the_end_of_the_frames() -> None:
    assert len(list(run_stream(Finder(), Camera(4, broken=cv2.error("bad packet")).source(live=False)))) == 4


@pytest.mark.parametrize("leave", ["break", "raise", "never begun"])
def test_a_caller_that_leaves_takes_the_threads_along(leave: str) -> None:
    camera = Camera(10_000)
    run = run_stream(Finder(), camera.source())
    if leave == "never begun":
        run.close()
        return
    try:
        for i, _ in enumerate(run):
            if i == 3 and leave == "break":
                break
            if i == 3:
                raise KeyError("the caller's own")
    except KeyError:
        pass
    run.close()
    assert camera.frame < 10_000 and camera.released == 1


def test_a_source_that_does_not_open_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="camera 7: does not open"):
        run_stream(Finder(), Camera(0).source())
    with pytest.raises(DataError, match="is no video, address or camera"):
        run_stream(Finder(), tmp_path / "none.mp4")


def test_memory_stays_flat_over_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "REMEMBERED", 50)
    run = run_stream(Finder(), Camera(3000).source(live=False))
    most = 0
    for _ in run:
        most = max(most, len(run.feeds[0].times), len(run._frames._waiting[0]), len(run._results._items))
    assert most <= 50
    assert run.summarise().detected == 3000


def save_video(path: Path, frames: list[Image], *, codec: str = "MJPG") -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10.0, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def read_video(path: Path) -> list[Image]:
    reader = FrameReader(make_source(str(path)))
    assert reader.fps == pytest.approx(10.0)
    return [frame for _, frame in reader]


def test_a_real_video_goes_through_and_is_written_again(tmp_path: Path) -> None:
    path = save_video(tmp_path / "clip.avi", [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(12)])
    run = run_stream(Finder(), path)
    assert not run.live and run.fps == 10.0
    with VideoFile(tmp_path / "out" / "clip.mp4", fps=run.fps) as video:
        for _, frame, _ in run:
            video.write(frame, run.seconds)
    frames = read_video(tmp_path / "out" / "clip.mp4")
    np.testing.assert_allclose([f.mean() for f in frames], [20 * i for i in range(12)], atol=4)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["clip.mp4"]


def test_a_video_that_is_cut_off_gives_what_it_has_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0)
    path = save_video(tmp_path / "clip.avi", [noise.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(40)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = len(list(run_stream(Finder(), path)))
    assert 0 < found < 40
    # OpenCV counts the frames of an AVI without its index, so it may know no better
    assert "of 40 frames" in caplog.text or FrameReader(make_source(str(path)))._count <= found / 0.95


@pytest.mark.parametrize("hw", [(48, 64), (49, 65), (47, 64), (31, 33), (2, 2)])
def test_odd_sizes_lose_no_pixel(hw: tuple[int, int], tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.mp4", fps=10.0) as video:
        for i in range(3):
            video.write(np.full((*hw, 3), 200, np.uint8), i / 10)
    frames = read_video(tmp_path / "a.mp4")
    assert len(frames) == 3
    even_hw = (hw[0] + hw[0] % 2, hw[1] + hw[1] % 2)
    assert frames[0].shape == (*even_hw, 3)
    assert frames[0][: hw[0] // 2, : hw[1] // 2].mean() == pytest.approx(200, abs=8)


def test_frames_that_change_size_are_fitted_into_the_first(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.mp4", fps=10.0) as video:
        for i, hw in enumerate([(48, 64), (96, 64), (20, 300), (49, 65), (47, 63)]):
            video.write(np.full((*hw, 3), 200, np.uint8), i / 10)
    frames = read_video(tmp_path / "a.mp4")
    assert [f.shape for f in frames] == [(48, 64, 3)] * 5
    assert frames[1][:, 20:44].mean() > 180 and frames[1][:, :10].mean() < 20


def test_pictures_keep_their_time_and_long_gaps_are_cut(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.mp4", fps=10.0) as video:
        for seconds, value in ((0.0, 50), (0.3, 100), (0.31, 150), (60.0, 200), (60.1, 250)):
            video.write(np.full((16, 16, 3), value, np.uint8), seconds)
    values = [round(float(f.mean()) / 50) * 50 for f in read_video(tmp_path / "a.mp4")]
    assert values == [50, 100, 100, 100, *[200] * 20, 250]


def test_a_video_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), VideoFile(tmp_path / "file" / "a.mp4") as video:
        video.write(np.zeros((4, 4, 3), np.uint8), 0.0)
    VideoFile(tmp_path / "none.mp4").close()
    assert not (tmp_path / "none.mp4").exists()


def test_what_was_written_stays_when_the_camera_goes(tmp_path: Path) -> None:
    run = run_stream(Finder(), Camera(8).source(), every_frame=True, reconnect_s=0.0)
    with pytest.raises(DataError, match="no more frames"), VideoFile(tmp_path / "cam.mp4", fps=10.0) as video:
        for _, frame, _ in run:
            video.write(frame, run.index / 10)
    assert len(read_video(tmp_path / "cam.mp4")) == 8


@pytest.mark.parametrize(
    ("text", "stem", "where"),
    [
        ("3", "camera3", "camera 3"),
        ("rtsp://me:secret@10.0.0.7:554/h264?x=1", "10.0.0.7-554", "rtsp://10.0.0.7:554"),
        ("http://host/a%20b/live.m3u8", "host", "http://host"),
        ("rtsp://me:sec@ret@host/x", "host", "rtsp://host"),
        ("rtsp://host/user=me_password=secret_channel=1", "host", "rtsp://host"),
        ("http://host?user=me&password=secret", "host", "http://host"),
        ("http://host#secret", "host", "http://host"),
        ("rtsp://me:sec/secret@host/x", "stream", "rtsp://..."),
        ("rtsp://me:secret?x@host/x", "stream", "rtsp://..."),
        ("rtsp://[fe80::1]:554/x", "fe80-1-554", "rtsp://[fe80::1]:554"),
    ],
)
def test_live_sources_are_recognised_and_keep_their_secret(text: str, stem: str, where: str) -> None:
    source = make_source(text)
    assert source is not None and source.live
    assert (source.stem, source.where) == (stem, where)
    assert show_address(text) == (where if "://" in text else text) and "secret" not in where + stem + source.hint


def test_a_network_stream_that_breaks_off_and_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    """Pictures over TCP, as FFmpeg reads them: two connections of twenty, then nobody listens any more."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for connection in range(2):
            client, _ = server.accept()
            with client:
                for i in range(20):
                    picture = np.full((48, 64, 3), 100 * connection + 4 * i, np.uint8)
                    client.sendall(cv2.imencode(".jpg", picture)[1].tobytes())
        server.close()

    serving = threading.Thread(target=serve)
    serving.start()
    run = run_stream(Finder(), f"tcp://127.0.0.1:{server.getsockname()[1]}", every_frame=True, reconnect_s=1.0)
    assert run.live
    seen = []
    with pytest.raises(DataError, match="gives no more frames, after 40"):
        for _, frame, _ in run:
            seen.append(float(frame.mean()))
    serving.join()
    np.testing.assert_allclose(seen, [100 * c + 4 * i for c in range(2) for i in range(20)], atol=2)
    assert run.summarise().reconnects == 1
    assert "Connection refused" in capfd.readouterr().err  # FFmpeg's own words, beside ours


def test_a_video_behind_an_address_has_an_end(tmp_path: Path) -> None:
    path = save_video(tmp_path / "clip.avi", [np.full((48, 64, 3), 9, np.uint8)] * 5)
    run = run_stream(Finder(), path.as_uri(), reconnect_s=30.0)
    assert not run.live
    assert len(list(run)) == 5
    assert make_source("no such picture.jpg") is None
