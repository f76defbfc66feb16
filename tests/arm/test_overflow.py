"""int8 3x3 convolutions in their worst case: every product has the largest size and, in some output, the same sign.

The shelf's ARM targets are exact on every core. Without what guards them (winograd F(4,3) off), x86 and the cores that
have no dot products (Cortex-A53, A72) overflow int32.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from any_spec import any_spec
from onnx import TensorProto, helper, numpy_helper

from edgeyolo import backends
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.qparams import CalibrationRecord, LayerPrecision, QParams, TensorGroup, WeightScales
from edgeyolo.spec.target import load_target

TARGETS = ("raspberry-pi-4", "raspberry-pi-5")  # float layers in single precision, and in half
CHANNELS = (64, 512)
OUT_CHS, SIZE, STEP = 16, 16, 1 / 127
OPTION = "use_winograd43_convolution"
SPEC = any_spec((SIZE, SIZE))
RunOnArm = Callable[..., str]


class WorstCase:
    """images -> 1x1 that repeats channel 0 -> 3x3 int8 of +-127 -> map_0, opened with and without the guard.

    Output 0 has weights of one sign, the others random signs; picture 0 is +127 all over, picture 1 random +-127.
    """

    def __init__(self, folder: Path, channels: int, target: str) -> None:
        random = np.random.default_rng(channels)
        self.weight = random.choice([-1.0, 1.0], (OUT_CHS, 1, 3, 3)).repeat(channels, axis=1).astype(np.float32)
        self.weight[0] = 1
        self.images = np.ones((2, 3, SIZE, SIZE), np.float32)
        self.images[1] = random.choice([-1.0, 1.0], (SIZE, SIZE))
        repeat = np.zeros((channels, 3, 1, 1), np.float32)
        repeat[:, 0] = 1
        path = write_onnx(folder, {"wide.weight": repeat, "deep.weight": self.weight})
        self.guarded, self.unguarded = folder / "guarded", folder / "unguarded"
        artefact = backends.build(path, SPEC, make_qparams(path), load_target(target), self.guarded, precision="int8")
        assert artefact.layers == {"int8": 1, "float": 1}
        assert artefact.options[OPTION] is False
        np.save(self.guarded / "images.npy", self.images)
        shutil.copytree(self.guarded, self.unguarded)
        for out, changes in ((self.guarded, {}), (self.unguarded, {OPTION: True})):
            changed = msgspec.structs.replace(artefact, options=artefact.options | changes)
            (out / "artefact.json").write_bytes(msgspec.json.encode(changed))
            (out / "spec.json").write_bytes(msgspec.json.encode(SPEC))

    def expected(self) -> np.ndarray:
        """(2, OUT_CHS, SIZE, SIZE), in integers."""
        padded = np.pad(self.images[:, 0], ((0, 0), (1, 1), (1, 1))).astype(np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("bhwij,oij->bohw", windows, self.weight.sum(axis=1).astype(np.int64))

    def errors(self, map_: np.ndarray) -> float:
        """Largest error, in parts of the largest value."""
        expected = self.expected()
        return float(np.abs(map_ - expected).max() / np.abs(expected).max())


def write_onnx(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    nodes = [
        helper.make_node("Conv", ["images", "wide.weight"], ["x"]),
        helper.make_node("Conv", ["x", "deep.weight"], ["map_0"], pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "worst",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, [1, OUT_CHS, SIZE, SIZE])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def make_qparams(path: Path) -> QParams:
    return QParams(
        onnx_sha256=sha256_of(path),
        groups={"x": TensorGroup(tensors=("x",), scale=STEP, how="hand")},
        weights={"deep.weight": WeightScales(scales=(STEP,) * OUT_CHS, how="hand")},
        layers={"deep": LayerPrecision(precision="int8", weight="deep.weight", group="x")},
        calibration=CalibrationRecord(recipe="hand", method="ptq", count=0, seed=0, pictures={}),
    )


@pytest.fixture(scope="session")
def cases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[WorstCase]:
    folder = tmp_path_factory.mktemp(request.param)
    return [WorstCase(folder / str(channels), channels, request.param) for channels in CHANNELS]


def check(cases: Sequence[WorstCase], read: Callable[[Path], np.ndarray], *, overflows: bool) -> None:
    """Guarded cases are exact, to the half precision that ARM targets store results in; the others wrap around."""
    for case in cases:
        assert case.errors(read(case.guarded)) <= 2**-11
    wrong = [case.errors(read(case.unguarded)) > 0.05 for case in cases]
    assert wrong == [overflows] * len(cases)


@pytest.mark.parametrize("cases", TARGETS, indirect=True)
def test_on_this_machine(cases: list[WorstCase]) -> None:
    def run(folder: Path) -> np.ndarray:
        artefact = msgspec.json.decode((folder / "artefact.json").read_bytes(), type=Artefact)
        session = backends.open_artefact(folder, artefact, SPEC, threads=1)
        return session.run(np.load(folder / "images.npy"))[0]

    check(cases, run, overflows=True)


@pytest.mark.parametrize(
    ("cases", "cpu", "overflows"),
    [
        ("raspberry-pi-4", "cortex-a53", True),
        ("raspberry-pi-4", "cortex-a72", True),
        pytest.param("raspberry-pi-4", "cortex-a76", False, marks=pytest.mark.slow),
        pytest.param("raspberry-pi-4", "max", False, marks=pytest.mark.slow),
        ("raspberry-pi-5", "cortex-a76", False),
        ("raspberry-pi-5", "max", False),
        pytest.param("raspberry-pi-5", "cortex-a53", True, marks=pytest.mark.slow),
        pytest.param("raspberry-pi-5", "cortex-a72", True, marks=pytest.mark.slow),
    ],
    indirect=["cases"],
)
def test_on_arm(cases: list[WorstCase], run_on_arm: RunOnArm, cpu: str, overflows: bool) -> None:
    """Dot products (A76 on) take another way than winograd, so there is nothing to guard."""
    run_on_arm(cpu, "artefact", *(folder for case in cases for folder in (case.guarded, case.unguarded)))
    check(cases, lambda folder: np.load(folder / "map_0.npy"), overflows=overflows)
