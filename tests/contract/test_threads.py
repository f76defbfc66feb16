"""Eight threads on one detector, on every engine that runs here: each gets its own picture's boxes, to the bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from blocks import SPEC, draw_blocks, save_model
from threads import quickly_switching

from edgeyolo import backends
from edgeyolo.runtime import Detector
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.target import load_target

THREADS, ROUNDS = 8, 15
HOSTS = [host.target for host in backends.list_runnable() if host.is_host and not host.problems]


@pytest.mark.parametrize("host", HOSTS)
def test_eight_threads_on_one_detector(host: str, tmp_path: Path) -> None:
    save_model(tmp_path / "model.onnx")
    artefact = backends.build(
        tmp_path / "model.onnx", SPEC, None, load_target(host), tmp_path / "out", precision="fp32"
    )
    session = backends.open_artefact(tmp_path / "out", artefact, SPEC, threads=1)
    rng = np.random.default_rng(1)
    pictures = [draw_blocks(rng, (90 + 20 * i, 240 - 20 * i)) for i in range(THREADS)]
    with Detector(session, SPEC, Thresholds(score_threshold=0.3)) as detector:
        alone = [detector.detect(picture) for picture in pictures]
        assert min(len(found) for found in alone) > 5

        def detect(index: int) -> None:
            for turn in range(ROUNDS):
                found = detector.detect_batch([pictures[index], pictures[turn % THREADS]][: 1 + turn % 2])[0]
                np.testing.assert_array_equal(found.boxes_xyxy, alone[index].boxes_xyxy)
                np.testing.assert_array_equal(found.scores, alone[index].scores)
                np.testing.assert_array_equal(found.class_ids, alone[index].class_ids)

        with quickly_switching(), ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(detect, range(THREADS)))
