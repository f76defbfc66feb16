"""On a Rockchip board: which chip it has, which bundles are for it, and how the NPU is spoken to.

No board is here: `rknnlite` is stood in for by as much of it as a session uses, and keeps what it was given.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
from any_spec import any_spec

from edgeyolo import backends
from edgeyolo.backends.rknn import board
from edgeyolo.backends.rknn.options import Options
from edgeyolo.spec.errors import BackendError, MissingPackageError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.verbs import artefact_name

HW = (16, 32)
FILES = {"rknn": "model.rknn", "onnx": "model.onnx"}


def artefact(**options: object) -> Artefact:
    return Artefact(engine="rknn", engine_version="2.5.0", precision="int8", files=FILES, options=options)


@pytest.fixture
def on_rk3588(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Rock 5, with the files of a bundle."""
    (tmp_path / "compatible").write_bytes(b"radxa,rock-5b\0rockchip,rk3588\0")
    monkeypatch.setattr(board, "_COMPATIBLE", tmp_path / "compatible")
    for name in FILES.values():
        (tmp_path / name).write_bytes(b"of an NPU")
    return tmp_path


class Npu:
    """The stand-in: a map is the first channel of what is given, twice as large."""

    given: list[np.ndarray] = []  # noqa: RUF012
    masks: list[int] = []  # noqa: RUF012
    works = True
    batch = 1

    def load_rknn(self, path: str) -> int:
        return 0 if Path(path).read_bytes() == b"of an NPU" else -1

    def init_runtime(self, core_mask: int) -> int:
        self.masks.append(core_mask)
        return 0

    def inference(self, inputs: list[np.ndarray], data_format: list[str]) -> list[np.ndarray] | None:
        assert data_format == ["nhwc"] and inputs[0].shape == (self.batch, *HW, 3) and inputs[0].flags.c_contiguous
        return [2 * inputs[0][:, None, ..., 0]] if self.works else None

    def release(self) -> None:
        self.works = False


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> type[Npu]:
    package, api = ModuleType("rknnlite"), ModuleType("rknnlite.api")
    api.RKNNLite = Npu  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rknnlite", package)
    monkeypatch.setitem(sys.modules, "rknnlite.api", api)
    return Npu


@pytest.mark.parametrize(
    ("compatible", "chip"),
    [
        (b"radxa,rock-5b\0rockchip,rk3588\0", "rk3588"),
        (b"xunlong,orangepi-5\0rockchip,rk3588s\0rockchip,rk3588\0", "rk3588"),
        (b"khadas,edge2\0rockchip,rk3588s\0", "rk3588"),
        (b"radxa,rock-3a\0rockchip,rk3568\0", "rk3568"),
        (b"rockchip,rv1126b-evb\0rockchip,rv1126b\0", "rv1126b"),
        (b"pine64,rockpro64\0rockchip,rk3399\0", ""),
        (b"raspberrypi,5-model-b\0brcm,bcm2712\0", ""),
    ],
)
def test_the_chip_is_told_from_the_device_tree(
    compatible: bytes, chip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compatible").write_bytes(compatible)
    monkeypatch.setattr(board, "_COMPATIBLE", tmp_path / "compatible")
    assert board.find_chip() == chip
    assert backends.load_engine("rknn").is_simulated() == (not chip)


def test_a_bundle_runs_on_the_npu_and_is_not_called_simulated(on_rk3588: Path, npu: type[Npu]) -> None:
    images = np.random.default_rng(0).random((2, 3, *HW), dtype=np.float32)
    session = backends.open_artefact(on_rk3588, artefact(chip="rk3588", cores="0_1_2"), any_spec(HW))
    assert npu.masks[-1] == 7
    (found,) = session.run(images)
    np.testing.assert_array_equal(found, 2 * images[:, :1])
    assert artefact_name(artefact(chip="rk3588")) == "rknn int8"
    npu.works = False
    with pytest.raises(BackendError, match="the NPU gave no result"):
        session.run(images)
    npu.works = True
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(images)


def test_a_bundle_for_four_pictures_is_given_four(
    on_rk3588: Path, npu: type[Npu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npu, "batch", 4)
    spec = any_spec(HW)
    spec = msgspec.structs.replace(spec, input=msgspec.structs.replace(spec.input, batch=(4, 4)))
    session = backends.open_artefact(on_rk3588, artefact(chip="rk3588"), spec)
    images = np.random.default_rng(0).random((6, 3, *HW), dtype=np.float32)
    np.testing.assert_array_equal(session.run(images)[0], 2 * images[:, :1])


def test_a_file_that_it_does_not_read(on_rk3588: Path, npu: type[Npu]) -> None:
    (on_rk3588 / "model.rknn").write_bytes(b"half")
    with pytest.raises(BackendError, match="rknn-toolkit-lite2 cannot read it"):
        backends.open_artefact(on_rk3588, artefact(chip="rk3588"), any_spec(HW))


def test_a_bundle_for_another_chip_names_the_target(on_rk3588: Path) -> None:
    with pytest.raises(BackendError, match="for the NPU of an rk3576, and this board has an rk3588") as caught:
        backends.open_artefact(on_rk3588, artefact(chip="rk3576"), any_spec(HW))
    assert caught.value.hint == "Deploy for this board: --target rockchip-rk3588-npu"


def test_a_board_without_the_package(on_rk3588: Path) -> None:
    with pytest.raises(MissingPackageError, match="running bundles on a Rockchip NPU") as caught:
        backends.open_artefact(on_rk3588, artefact(chip="rk3588"), any_spec(HW))
    assert caught.value.hint == 'Install it: pip install "edgeyolo[rknn]"'


def test_doctor_looks_at_the_board(on_rk3588: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_LIBRARIES", ())
    chip, driver, library = backends.load_engine("rknn").examine()
    assert (chip.found, driver.what, library.found) == ("rk3588", "NPU driver", "missing")
    assert "librknnrt.so" in library.hint


def test_every_target_is_of_a_chip_that_the_toolkit_has() -> None:
    assert board.CHIPS.keys() >= {"rk3588", "rk3576", "rk3566", "rv1126b"}
    board.check_chip(Options("rk3566"), "rk3568")
