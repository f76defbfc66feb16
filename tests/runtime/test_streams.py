"""Several sources on one engine, which is ONNX Runtime: what each gives alone, in order, whatever the others do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from blocks import SPEC, draw_blocks, save_model

from edgeyolo import backends
from edgeyolo.runtime import Detections, Detector
from edgeyolo.runtime.capture import FrameReader, Source, make_source
from edgeyolo.runtime.pipeline import StreamsRun, run_streams
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.target import load_target


def open_detector(folder: Path, batch: tuple[int, int]) -> Detector:
    spec = msgspec.structs.replace(SPEC, input=msgspec.structs.replace(SPEC.input, batch=batch))
    save_model(folder / "model.onnx")
    out = folder / f"{batch[0]}-{batch[1]}"
    artefact = backends.build(folder / "model.onnx", spec, None, load_target("host-onnx"), out, precision="fp32")
    return Detector(backends.open_artefact(out, artefact, spec, threads=1), spec, Thresholds(score_threshold=0.3))


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Videos of other sizes and lengths, two of the same name."""
    paths = []
    for number, (count, hw) in enumerate(((11, (90, 160)), (4, (120, 120)), (17, (64, 96)))):
        path = tmp_path / str(number) / ("clip.avi" if number < 2 else "yard.avi")
        path.parent.mkdir()
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, hw[::-1])
        rng = np.random.default_rng(number)
        for _ in range(count):
            writer.write(draw_blocks(rng, hw))
        writer.release()
        paths.append(path)
    return paths


class Camera:
    """Gives a picture every `seconds`, `count` times."""

    def __init__(self, seconds: float, count: int) -> None:
        self.seconds, self.left = seconds, count

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.left == 0:
            return False, None
        time.sleep(self.seconds)
        self.left -= 1
        return True, np.full((12, 16, 3), 7, np.uint8)

    def get(self, propId: int) -> float:
        return 0.0

    def release(self) -> None:
        """Nothing is held."""

    def source(self, stem: str) -> Source:
        return Source(stem, f"camera {stem}", lambda: self, True, "Is it plugged in?")


def assert_same(found: Detections, wanted: Detections) -> None:
    assert found.class_ids.tolist() == wanted.class_ids.tolist()
    np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=1e-3)


@pytest.fixture
def alone(clips: list[Path], tmp_path: Path) -> Iterator[list[list[Detections]]]:
    """What a detector for one picture finds in each frame of each clip."""
    with open_detector(tmp_path, (1, 1)) as detector:
        found = [[detector.detect(image) for _, image in FrameReader(make_source(str(clip)))] for clip in clips]
        assert min(len(detections) for clip in found for detections in clip) > 3
        yield found


@pytest.mark.parametrize("batch", [(1, 1), (4, 4), (1, 8)])
def test_every_source_gives_what_it_gives_alone(
    batch: tuple[int, int], clips: list[Path], alone: list[list[Detections]], tmp_path: Path
) -> None:
    with open_detector(tmp_path, batch) as detector, run_streams(detector, clips) as run:
        assert [feed.stem for feed in run.feeds.values()] == ["clip", "clip-2", "yard"]
        seen: dict[int, list[str]] = {position: [] for position in range(3)}
        for name, _, detections in run:
            assert_same(detections, alone[run.source][run.index])
            assert run.seconds == pytest.approx(run.index / 10) and run.timing.total_ms > 0
            seen[run.source].append(name)
    for position, stem in enumerate(("clip", "clip-2", "yard")):
        assert seen[position] == [f"{stem}-{i:06d}" for i in range(len(alone[position]))]
    summaries = run.summaries()
    assert [summary.detected for summary in summaries.values()] == [11, 4, 17] and not run.errors
    means = [summary.batch for summary in summaries.values()]
    assert means == [1, 1, 1] if batch == (1, 1) else min(means) > 1 and max(means) <= batch[1]


def test_a_slow_source_and_a_broken_one_hold_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fast, slow, gone = Camera(0.01, 60), Camera(0.6, 2), Camera(0.0, 0)
    sources = [fast.source("fast"), gone.source("gone"), slow.source("slow")]
    with open_detector(tmp_path, (1, 4)) as detector:
        run = StreamsRun(detector, sources, reconnect_s=0.0, max_wait_ms=20)
        assert list(run.feeds) == [0, 2] and "does not open" in str(run.errors[1])
        came = [run.source for _ in run]
    summaries = run.summaries()
    assert came.count(2) == 2  # every frame of the slow one
    assert summaries[0].detected > 30 and came[:10].count(0) >= 9  # the fast one did not wait for it
    assert summaries[0].latency["delay"].median_ms < 200
    assert {position: str(error) for position, error in run.errors.items() if position != 1} == {
        0: "camera fast: gives no more frames, after 60. Is it plugged in?",
        2: "camera slow: gives no more frames, after 2. Is it plugged in?",
    }
    assert "camera fast: gives no more frames" in caplog.text


def test_an_engine_that_fails_ends_all(clips: list[Path], tmp_path: Path) -> None:
    detector = open_detector(tmp_path, (1, 4))
    run = run_streams(detector, [*clips, Camera(0.01, 10_000).source("cam")])
    with pytest.raises(BackendError, match="closed"):
        for count, _ in enumerate(run):
            if count == 5:
                detector.close()


def test_no_source_that_opens_is_an_end_at_once(tmp_path: Path) -> None:
    with open_detector(tmp_path, (1, 1)) as detector:
        run = run_streams(detector, ["nowhere.mp4", Camera(0, 0).source("gone")])
        assert list(run) == [] and sorted(run.errors) == [0, 1] and not run.summaries()
