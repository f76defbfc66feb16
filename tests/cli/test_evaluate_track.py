"""`edgeyolo evaluate --track`: sequences with ground truth, by a bundle and by files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
GROUND_TRUTH = "".join(f"{frame},1,10,10,20,20,1,1,1\n" for frame in range(1, 4))


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    for name in ("street", "yard"):
        folder = tmp_path / "mot" / name
        (folder / "gt").mkdir(parents=True)
        (folder / "img1").mkdir()
        (folder / "gt" / "gt.txt").write_text(GROUND_TRUTH)
        picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
        for frame in range(1, 4):
            cv2.imwrite(str(folder / "img1" / f"{frame:06d}.png"), picture)
    return tmp_path / "mot"


def test_a_bundle_is_followed_by_a_tracker(run: Run, bundle: Path, sequences: Path) -> None:
    everything = ["--set", "low_threshold=0", "--set", "high_threshold=0", "--set", "new_threshold=0"]
    done = run("evaluate", bundle, "--data", sequences, "--track", "botsort", *everything, "--json")
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    assert (score["artefact"], score["method"], score["data"]) == ("onnxruntime fp32", "botsort", "mot")
    assert list(score["per_sequence"]) == ["street", "yard"] and score["overall"]["boxes"] == 6
    assert score["overall"]["false_positives"] > 100  # a random network sees things everywhere
    assert "HOTA" in done.stderr and "IDF1" in done.stderr
    unknown = run("evaluate", bundle, "--data", sequences, "--track", "botsort", "--classes", "nobody")
    assert unknown.returncode == 2 and "nobody" in unknown.stderr


def test_files_of_tracks_need_no_bundle(run: Run, sequences: Path, tmp_path: Path) -> None:
    tracks = tmp_path / "tracks"
    tracks.mkdir()
    (tracks / "street.txt").write_text(GROUND_TRUTH.replace(",1,10,", ",5,10,"))
    done = run("evaluate", tracks, "--data", sequences)
    assert done.returncode == 1 and "yard.txt" in done.stderr
    (tracks / "yard.txt").write_text("")
    done = run("evaluate", tracks, "--data", sequences, "--json")
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    assert score["per_sequence"]["street"]["hota"] == pytest.approx(100)
    assert score["overall"]["mota"] == 50 and score["overall"]["misses"] == 3
