"""`edgeyolo detect` on videos: a line per frame, a summary, a video that plays, and a clean end by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
FRAMES = 12


def make_video(path: Path, count: int = FRAMES) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (63, 47))
    for i in range(count):
        writer.write(np.full((47, 63, 3), i % 250, np.uint8))
    writer.release()
    return path


def count_frames(path: Path) -> int:
    video, count = cv2.VideoCapture(str(path)), 0
    while video.read()[0]:
        count += 1
    return count


def test_a_video_gives_a_line_per_frame_and_a_video_with_boxes(run: Run, bundle: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.avi")
    arguments = ["--score-threshold", "0.001", "--max-detections", "3", "--save", tmp_path / "out", "--json"]
    done = run("detect", bundle, tmp_path / "clip.avi", tmp_path / "clip.avi", *arguments)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    frames, summaries = [x for x in lines if "picture" in x], [x for x in lines if "summary" in x]
    assert [x["picture"] for x in frames[:FRAMES]] == [f"clip-{i:06d}" for i in range(FRAMES)]
    assert len(frames) == 2 * FRAMES and frames[3]["seconds"] == 0.3
    assert frames[0]["image_hw"] == [46, 62]  # as the codec of the test's own video keeps it
    assert summaries[0]["summary"]["detected"] == FRAMES and summaries[0]["summary"]["dropped"] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip-2.mp4", "clip.mp4"]
    assert count_frames(tmp_path / "out" / "clip.mp4") == FRAMES
    assert f"{FRAMES} of {FRAMES} frames" in done.stderr


def test_frames_and_broken_sources_in_a_row(run: Run, bundle: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.avi")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    done = run("detect", bundle, tmp_path / "broken.mp4", tmp_path / "clip.avi", "--frames", "4", "--json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert "broken.mp4" in lines[0]["error"]["source"] and lines[0]["error"]["hint"]
    assert len([x for x in lines if "picture" in x]) == 4
    assert "Traceback" not in done.stderr


def test_a_camera_that_is_not_there(run: Run, bundle: Path) -> None:
    address = "rtsp://me:se@cret@127.0.0.1:9/user=me_password=cret?password=cret"
    done = run("detect", bundle, "97", address, "--reconnect", "0", "--json")
    assert done.returncode == 1
    assert "camera 97: does not open" in done.stderr
    assert "rtsp://127.0.0.1:9: does not open" in done.stderr
    assert "cret" not in done.stderr + done.stdout
    errors = [json.loads(line)["error"]["source"] for line in done.stdout.splitlines()]
    assert errors == ["97", "rtsp://127.0.0.1:9"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_with_a_summary(number: signal.Signals, bundle: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "long.avi", 5000)
    command = [sys.executable, "-m", "edgeyolo", "detect", str(bundle), str(tmp_path / "long.avi"), "--json"]
    with (
        (tmp_path / "said").open("w") as said,
        subprocess.Popen(
            [*command, "--save", str(tmp_path / "out")],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ) as process,
    ):
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline())]
        process.send_signal(number)
        lines += [json.loads(line) for line in process.stdout]
    stderr = (tmp_path / "said").read_text()
    assert process.returncode == 0, stderr
    summary = lines.pop()["summary"]
    assert all("picture" in line for line in lines)
    assert 1 <= len(lines) <= summary["detected"] < 5000
    assert count_frames(tmp_path / "out" / "long.mp4") == len(lines)
    assert "Traceback" not in stderr and "long:" in stderr
