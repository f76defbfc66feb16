"""Sessions whose number of threads changes: the same maps, from the same files only; and cores bound per thread."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeyolo.backends import CpuSession, open_artefact
from edgeyolo.backends import ncnn as ncnn_engine
from edgeyolo.backends._copies import ThreadCopies
from edgeyolo.backends.ncnn import NcnnSession
from edgeyolo.bundle import open_bundle
from edgeyolo.runtime import Detector
from edgeyolo.runtime.thread_choice import AdaptiveSession
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.target import load_target


@pytest.fixture(params=["host-ncnn", "host-onnx"])
def bundle(request: pytest.FixtureRequest, quantized_model: Any, tmp_path: Path) -> Path:
    from edgeyolo import verbs

    pytest.importorskip("ncnn" if request.param == "host-ncnn" else "onnxruntime", reason="the engine is not installed")
    verbs.deploy(quantized_model("yolov7-nano", 64).folder, request.param, tmp_path / "a.eyb", precision="int8")
    return tmp_path / "a.eyb"


def test_any_number_of_threads_gives_the_same_maps(bundle: Path) -> None:
    images = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    with open_bundle(bundle) as opened:
        session = open_artefact(opened.folder, opened.manifest.artefact, opened.manifest.model, threads=2)
        assert isinstance(session, CpuSession) and session.threads == 2
        expected = session.run(images)
        for count in (1, 3, 2):
            session.use_threads(count)
            assert session.threads == count
            for ours, theirs in zip(session.run(images), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-4)
        files = [opened.folder / name for name in opened.manifest.artefact.files.values()]
        files[0].write_bytes(files[0].read_bytes())
        session.use_threads(3)  # still there
        with pytest.raises(BackendError, match="has changed since it was opened"):
            session.use_threads(4)
        assert session.threads == 3
        session.close()
        with pytest.raises(BackendError, match="closed"):
            session.run(images)


def test_a_number_that_is_given_is_kept(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeyolo.backends.onnxruntime.count_cores", lambda: 2)
    with Detector.load(bundle, threads=2) as fixed, Detector.load(bundle) as free:
        assert not isinstance(fixed._session, AdaptiveSession) and fixed._session.threads == 2
        assert isinstance(free._session, AdaptiveSession) == (free._session.threads > 1)


def test_two_copies_are_kept_at_most(tmp_path: Path) -> None:
    loaded: list[int] = []
    copies = ThreadCopies(lambda count: loaded.append(count) or f"net {count}", 4, [tmp_path])
    for count in (3, 4, 3, 2, 3, 4):
        copies.use(count)
        assert copies.current == f"net {count}" and copies.threads == count
    assert loaded == [4, 3, 2, 4]
    copies.close()
    copies.use(3)
    assert copies.current is None


class Recorder:
    """An engine that notes which thread is bound to which cores."""

    def __init__(self) -> None:
        self.bound: list[tuple[str, int]] = []

    def set_cpu_powersave(self, kind: int) -> None:
        self.bound.append((threading.current_thread().name, kind))

    def Mat(self, image: np.ndarray) -> np.ndarray:
        return image

    def create_extractor(self) -> Recorder:
        return self

    def input(self, name: str, mat: np.ndarray) -> int:
        return 0

    def extract(self, name: str) -> tuple[int, np.ndarray]:
        return 0, np.zeros((1, 2, 2), np.float32)


def test_every_thread_that_runs_is_bound_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ncnn_engine, "_PINNED", threading.local())
    monkeypatch.setattr(ncnn_engine, "_PINNED_ANYWHERE", set())
    engine = Recorder()

    def make(powersave: int) -> NcnnSession:
        return NcnnSession(engine, ThreadCopies(lambda _: engine, 1, [tmp_path]), 1, (4, 4), powersave=powersave)

    def run(session: NcnnSession, name: str) -> None:
        work = threading.Thread(target=lambda: [session.run(images) for _ in range(2)], name=name)
        work.start()
        work.join()

    images = np.zeros((1, 3, 4, 4), np.float32)
    anywhere, big = make(0), make(2)
    anywhere.run(images)
    assert engine.bound == []  # nobody asked for anything: the caller's own cores stay
    big.run(images)
    run(big, "stream")
    run(anywhere, "other")  # it inherited the big cores
    big.run(images)
    anywhere.run(images)
    assert engine.bound == [("MainThread", 2), ("stream", 2), ("other", 0), ("MainThread", 0)]


@pytest.mark.parametrize("name", ["rk3588", "android-arm64"])
def test_boards_with_small_cores_ask_for_the_big_ones(name: str) -> None:
    assert load_target(name).engine_options["cpu_powersave"] == 2
