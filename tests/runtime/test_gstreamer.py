"""Pipelines as sources: their text, and frames of a real GStreamer where there is one."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeyolo.runtime.capture import FrameReader, make_source, show_address
from edgeyolo.runtime.gstreamer import opencv_has_gstreamer, parse_pipeline
from edgeyolo.runtime.stream import open_stream
from edgeyolo.spec.errors import DataError, MissingPackageError, UsageError

HAS_GSTREAMER = pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="GStreamer is not installed here")
TEST_PICTURES = "gst: videotestsrc num-buffers=4 pattern={} ! video/x-raw,width={},height={},framerate=25/1 ! appsink"

# What gst-launch-1.0 does with its arguments: it says the caps, and writes frames to the descriptor it is told.
STAND_IN = """#!{python}
import re, sys
words = " ".join(sys.argv)
fd = int(re.search(r"fd=(\\d+)", words)[1])
if "nosuch" in words:
    print('WARNING: erroneous pipeline: no element "nosuch"', flush=True)
    sys.exit(1)
caps = "video/x-raw, format=(string)BGR, width=(int)5, height=(int)3, framerate=(fraction)15/2"
print("/GstPipeline:pipeline0/GstFdSink:frames.GstPad:sink: caps = " + caps, flush=True)
with open(fd, "wb") as sink:
    for frame in range(2):
        for row in range(3):
            sink.write(bytes([10 * frame + row] * 15 + [255]))  # rows begin at multiples of four bytes
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gst-launch-1.0"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def elements(text: str) -> str:
    pipeline = parse_pipeline(text)
    assert pipeline is not None
    return pipeline.elements


def test_pipelines_of_a_jetson() -> None:
    assert elements("csi://1?width=1920&height=1080") == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1 "
        "! nvvidconv ! video/x-raw,format=BGRx"
    )
    assert elements("nv:rtsp://cam/live").startswith("rtspsrc location=rtsp://cam/live latency=200 ! ")
    assert elements("nv:a b.mp4") == "filesrc location='a b.mp4' ! decodebin ! nvvidconv ! video/x-raw,format=BGRx"
    assert [parse_pipeline(text).is_live for text in ("csi://0", "nv:rtsp://c/", "nv:a.mp4")] == [True, True, False]
    assert parse_pipeline("rtsp://cam/live") is parse_pipeline("0") is parse_pipeline("a.mp4") is None


@pytest.mark.parametrize("text", ["gst: v4l2src", "gst: v4l2src ! fakesink", "csi://a", "csi://0?gain=2"])
def test_what_is_no_pipeline_says_how_to_write_one(text: str) -> None:
    with pytest.raises(UsageError, match="Write it as"):
        make_source(text)


def test_passwords_in_a_pipeline_are_not_shown() -> None:
    for text in ("nv:rtsp://me:secret@cam/x", "gst: rtspsrc location=rtsp://me:secret@cam/x user-pw=secret ! appsink"):
        source = make_source(text)
        assert source is not None
        assert "secret" not in show_address(text) + source.where + source.stem + source.hint
    assert show_address(text) == "gst: rtspsrc"


def test_frames_come_through_a_pipe(stand_in: None) -> None:
    reader = FrameReader(make_source("gst: filesrc location=x ! decodebin ! appsink"))
    assert (reader.fps, reader.live) == (7.5, False)
    frames = [frame for _, frame in reader]
    assert [frame.shape for frame in frames] == [(3, 5, 3)] * 2
    assert [frame[:, 0, 0].tolist() for frame in frames] == [[0, 1, 2], [10, 11, 12]]


def test_what_gstreamer_says_is_told(stand_in: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="does not open or gives"):
        FrameReader(make_source("gst: nosuch ! appsink"))
    assert 'no element "nosuch"' in caplog.text


@pytest.mark.skipif(opencv_has_gstreamer(), reason="this OpenCV runs pipelines itself")
def test_without_gstreamer_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match="sudo apt install gstreamer"):
        open_stream("csi://0")


@HAS_GSTREAMER
@pytest.mark.parametrize("size_wh", [(64, 48), (33, 17)])
def test_real_frames(size_wh: tuple[int, int]) -> None:
    frames = [*open_stream(TEST_PICTURES.format("red", *size_wh))]
    assert [name for name, _ in frames] == [f"gst-videotestsrc-{i:06d}" for i in range(4)]
    for _, frame in frames:
        assert frame.shape == (*size_wh[::-1], 3)
        np.testing.assert_allclose(frame, np.broadcast_to((0, 0, 255), frame.shape), atol=3)


@HAS_GSTREAMER
def test_a_real_pipeline_that_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="try the pipeline"):
        open_stream("gst: nosuchelement ! appsink")
    assert "nosuchelement" in caplog.text


@HAS_GSTREAMER
def test_a_live_pipeline_ends_when_it_is_let_go() -> None:
    reader = FrameReader(make_source("gst: videotestsrc is-live=true ! video/x-raw,width=64,height=48 ! appsink"))
    frames = iter(reader)
    assert next(frames)[0] == 0
    frames.close()
    assert reader._capture._process.returncode is not None
