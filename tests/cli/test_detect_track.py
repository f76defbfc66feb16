"""`edgeyolo detect --track`: ids in JSON, counts in zones, and what cannot be followed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

Run = Callable[..., "subprocess.CompletedProcess[str]"]
# The network is random: everything that it says is followed.
ALL = ["--score-threshold", "0.0001", "--max-detections", "3", "--set", "low_threshold=0", "--set", "high_threshold=0"]
ALL += ["--set", "new_threshold=0", "--set", "match_threshold=1", "--set", "fuse_score=false"]


def write_frames(folder: Path, count: int) -> Path:
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:03d}.png"), picture)
    return folder


def test_pictures_of_a_folder_are_one_sequence(run: Run, bundle: Path, tmp_path: Path) -> None:
    zones = tmp_path / "zones.toml"
    zones.write_text('unit = "share"\npoint = "centre"\n[areas.all]\ncorners_xy = [[0, 0], [1, 0], [1, 1], [0, 1]]')
    folders = [write_frames(tmp_path / name, 4) for name in ("first", "second")]
    follow = ["--track", "bytetrack", "--zones", zones, *ALL, "--save", tmp_path / "out", "--json"]
    done = run("detect", bundle, *folders, *follow)
    assert done.returncode == 0, done.stderr
    pictures = json.loads(done.stdout)["pictures"]
    ids = [[found["id"] for found in picture["objects"]] for picture in pictures]
    assert ids[0] and ids == [ids[0]] * 8  # still pictures: the same ids, from 1 on in each folder
    assert pictures[3]["zones"]["areas"]["all"] == {"inside": len(ids[0]), "entered": len(ids[0])}
    assert len(list((tmp_path / "out").iterdir())) == 8


def test_a_video_that_is_given_twice_is_two_sequences(run: Run, bundle: Path, tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames", 1)
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for _ in range(3):
        writer.write(cv2.imread(str(frames / "000.png")))
    writer.release()
    clip, out = tmp_path / "clip.avi", tmp_path / "out"
    done = run(
        "detect", bundle, clip, clip, "--track", "botsort", "--appearance", bundle, *ALL, "--save", out, "--json"
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in map(json.loads, done.stdout.splitlines()) if "picture" in line]
    ids = [[found["id"] for found in line["objects"]] for line in told]
    assert sorted(ids[0]) == [1, 2, 3] and ids == [ids[0]] * 6
    assert sorted(path.name for path in out.iterdir()) == ["clip-2.mp4", "clip.mp4"]


def test_what_cannot_be_followed_is_told(run: Run, bundle: Path, tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames", 1)
    done = run("detect", bundle, frames, "--zones", tmp_path / "zones.toml")
    assert done.returncode == 2 and "--track bytetrack" in done.stderr
    done = run("detect", bundle, frames, "--track", "bytetrack", "--appearance", bundle)
    assert done.returncode == 2 and "does not look at appearance" in done.stderr
    done = run("detect", bundle, frames, "--track", "botsort", "--zones", tmp_path / "zones.toml")
    assert done.returncode == 1 and "zones.toml" in done.stderr and "Traceback" not in done.stderr
    done = run("detect", bundle, frames, "--track", "botsort", "--set", "bufer=3")
    assert done.returncode == 2 and "buffer" in done.stderr
