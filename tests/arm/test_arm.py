"""The runtime that ships, on ARM's own kernels: emulated cores, the real aarch64 wheels, real photographs.

Raw maps are compared with this machine's ncnn, and those of int8 bundles with fake-quant torch too. Mixed ones round
less than that, and have to be nearer to the float model. What differs otherwise is float arithmetic around exact int8
sums: half precision between layers where the core has it (A76 on), which moves a value to the other side of a rounding
step now and then. Held, as for the engines of one machine (tests/pipeline/test_parity.py): that is far below what
quantization itself changes. The boxes that the board finds are those that its maps say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bccd import BCCD
from shared import make_once
from whole_way import WholeWay

from edgeyolo import verbs
from edgeyolo.backends import open_artefact
from edgeyolo.bundle import open_bundle
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation import measure_drift
from edgeyolo.evaluation.parity import compare_maps
from edgeyolo.evaluation.tasks.detection import MAP_THRESHOLDS
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization import quantize
from edgeyolo.quantization.calibrate.pictures import calibration_pictures
from edgeyolo.runtime import Detector
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.torch_session import TorchSession

ROOT = Path(__file__).parents[2]
PICTURES = (2, pytest.param(6, marks=pytest.mark.slow))  # an emulated core takes seconds for each
FAKE_QUANT_RMS = 0.05  # of the standard deviation of a map
# The core, the board whose bundle it gets, and its precision. One bundle asks for half-precision arithmetic that its
# core does not have: ncnn looks at the core and does without.
BOARDS = [
    ("cortex-a53", "raspberry-pi-3", "int8"),
    ("cortex-a72", "raspberry-pi-4", "int8"),
    ("cortex-a76", "raspberry-pi-5", "int8"),
    ("max", "rk3588", "int8"),
    ("cortex-a53", "raspberry-pi-5", "int8"),
    ("cortex-a72", "raspberry-pi-4", "mixed"),
    ("cortex-a76", "raspberry-pi-5", "mixed"),
]
BUNDLES = sorted({(target, precision) for _, target, precision in BOARDS})
RunOnArm = Callable[..., str]


@dataclass
class Replay:
    """A session that knows its maps, asked for picture by picture.

    Attributes:
        maps: one (N, C, h, w) array per map.
    """

    maps: list[np.ndarray]
    asked: int = 0

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        self.asked += 1
        return [map_[self.asked - 1 : self.asked] for map_ in self.maps]

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture(scope="module")
def bundles(
    python_on_arm: Path, whole_way: WholeWay, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    """By board and precision; only where there is an emulated one to run them on."""
    folder = make_once(tmp_path_factory, "arm", lambda folder: deploy_for_boards(whole_way, folder))
    return {key: folder / f"{'-'.join(key)}.eyb" for key in BUNDLES}


def deploy_for_boards(whole_way: WholeWay, folder: Path) -> None:
    for target, precision in BUNDLES:
        verbs.deploy(whole_way.quantized, target, folder / f"{target}-{precision}.eyb", precision=precision)


@pytest.fixture(scope="module")
def fake_quant(whole_way: WholeWay) -> TorchSession:
    loaded = load_checkpoint(whole_way.run)
    recipe = load_recipe("int8-mse")
    data = open_dataset(whole_way.data, "train")
    pictures, hashes = calibration_pictures(data, loaded.record.model.input, recipe.count, recipe.seed)
    quantized = quantize(loaded.model, pictures, recipe, recipe_name="int8-mse", picture_hashes=hashes)
    return TorchSession(quantized.fake_quant)


def list_pictures(whole_way: WholeWay, count: int) -> list[tuple[Path, Image]]:
    """Photographs where there are any, and drawn ones like those the model was trained on."""
    sources = [open_dataset(whole_way.data, "test")] + ([open_dataset(BCCD, "test")] if BCCD.is_dir() else [])
    return [(s.records[i].image_path.absolute(), s[i].image) for s in sources for i in range(count // len(sources))]


@pytest.mark.parametrize("count", PICTURES)
@pytest.mark.parametrize(("cpu", "target", "precision"), BOARDS)
def test_core(
    cpu: str,
    target: str,
    precision: str,
    count: int,
    whole_way: WholeWay,
    bundles: dict[tuple[str, str], Path],
    fake_quant: TorchSession,
    run_on_arm: RunOnArm,
    tmp_path: Path,
) -> None:
    pictures = list_pictures(whole_way, count)
    bundle, listed, out = bundles[target, precision], tmp_path / "pictures.txt", tmp_path / "found.json"
    listed.write_text("".join(f"{path}\n" for path, _ in pictures))
    said = json.loads(run_on_arm(cpu, "pictures", bundle, listed, out, "--maps", len(pictures)))
    assert (said["machine"], said["torch"]) == ("aarch64", False)

    images = [image for _, image in pictures]
    with np.load(out.with_suffix(".npz")) as stored:
        maps = [stored[name] for name in sorted(stored)]
    with open_bundle(bundle) as opened:
        model = opened.manifest.model
        here = open_artefact(
            opened.folder,
            opened.manifest.artefact,
            model,
            threads=1,
        )
    references = {"ncnn on this machine": here} | ({"fake-quant": fake_quant} if precision == "int8" else {})
    for name, reference in references.items():
        rows = compare_maps(reference, Replay(maps), images, model.input)
        assert len(rows) == len(maps)
        assert max(row.relative_rms for row in rows) < FAKE_QUANT_RMS, (name, rows)
    if precision == "mixed":
        floats = TorchSession(fold_model(load_checkpoint(whole_way.run).model))
        mixed, int8 = (compare_maps(floats, one, images, model.input) for one in (Replay(maps), fake_quant))
        assert sum(row.relative_rms for row in mixed) < sum(row.relative_rms for row in int8), (mixed, int8)

    on_board = measure_drift(
        Detector(Replay(maps), model, MAP_THRESHOLDS).detect,
        answers(out),
        [(path.name, image) for path, image in pictures],
        match_iou=0.99,
    )
    assert on_board.matched >= len(pictures)
    assert on_board.only_reference + on_board.only_candidate <= 0.01 * on_board.matched, on_board
    assert on_board.mean_score_difference < 1e-5


def answers(out: Path) -> Callable[[Image], Detections]:
    """What the board found, picture by picture."""
    found: Any = iter(json.loads(out.read_text()))

    def detect(image: Image) -> Detections:
        answer = next(found)
        boxes_xyxy = np.asarray(answer["boxes_xyxy"], np.float32).reshape(-1, 4)
        return Detections(boxes_xyxy, np.float32(answer["scores"]), np.int64(answer["class_ids"]))

    return detect


def test_command_line_on_a_board(
    whole_way: WholeWay, bundles: dict[tuple[str, str], Path], start_on_arm: Callable[..., Any], tmp_path: Path
) -> None:
    """`edgeyolo detect` with the board's packages only, and what it says of a bundle that is broken."""
    bundle, picture = bundles["raspberry-pi-4", "mixed"], list_pictures(whole_way, 2)[0][0]
    done = start_on_arm("cortex-a72", "-m", "edgeyolo", "detect", bundle, picture, "--json", "--save", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["pictures"]) == 1
    assert len(list((tmp_path / "out").iterdir())) == 1
    broken = tmp_path / "broken.eyb"
    broken.write_bytes(bundle.read_bytes()[:-100])
    done = start_on_arm("cortex-a72", "-m", "edgeyolo", "detect", broken, picture)
    assert done.returncode == 1, done.stderr
    assert "broken.eyb" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_board_runs_the_versions_that_are_developed_with() -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (Path(__file__).parent / "requirements.txt").read_text(), re.MULTILINE))
    known = re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    developed = {name.lower().replace("_", "-"): version for name, version in known}
    assert len(pins) > 10
    assert pins == {name: developed[name] for name in pins}
