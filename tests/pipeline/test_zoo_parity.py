"""Fake-quant torch, ONNX Runtime Q/DQ and ncnn int8 on real pictures, for every family: integers and raw head maps.

Fake-quant and ONNX Runtime are the same function but for the order of float sums: given the same integers in all
earlier tensors, at most 1 integer in 10,000 is another one. In a whole run each of those is spread by the layers after
it, so the maps of whole runs are held to a part of what quantization itself changes. The networks have random weights
with the statistics of real pictures; those of PP-YOLOE, with their residuals, spread a difference so far that half of
their layers are kept float where maps are compared. Trained networks are compared by benchmarks/parity.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from bccd import BCCD, needs_bccd
from torch import Tensor, nn

from edgeyolo import models
from edgeyolo.backends import Session, build, open_artefact
from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.parity import MapDifference, compare_maps
from edgeyolo.export import export_model
from edgeyolo.export.integers import compare_integers, differing_part
from edgeyolo.geometry.network_input import make_input
from edgeyolo.models import yolov7
from edgeyolo.quantization import Quantized, quantize
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import QParams, load_qparams
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.spec.target import load_target
from edgeyolo.training.torch_session import TorchSession

SIDE = 128
CLASS_NAMES = ("a", "b", "c")
YOLOV7 = ("yolov7-tiny", "yolov7-nano, silu", "yolov7-w6, thin")
WHOLE = (*YOLOV7, "ppyoloe-s", "ppyoloe-plus-s")
CALM = (*YOLOV7, "ppyoloe-s, half", "ppyoloe-plus-s, half")
HALF = ("neck.*", "backbone.stage_16.*", "backbone.stage_32.*")
ALONE = 1e-4  # of the integers, where all earlier tensors hold the same
SHARE = 0.6  # of what quantization changes in the maps, root mean square; measured: 0.08 to 0.50

pytestmark = needs_bccd


@dataclass(frozen=True)
class Case:
    """A quantized model, its files, and the pictures it is compared on."""

    quantized: Quantized
    spec: ModelSpec
    folder: Path
    images: list[np.ndarray]

    def qparams(self) -> QParams:
        return load_qparams(self.folder / "qparams.json")

    def open(self, target_name: str) -> Session:
        out = self.folder.parent / target_name
        artefact = build(
            self.folder / "model.onnx", self.spec, self.qparams(), load_target(target_name), out, precision="int8"
        )
        return open_artefact(out, artefact, self.spec, threads=1)

    def batches(self) -> list[np.ndarray]:
        return [make_input(image, self.spec.input)[0] for image in self.images]


def make_network(case: str) -> models.DetectorNetwork:
    name, _, change = case.partition(", ")
    if change == "silu":
        return models.create(name, len(CLASS_NAMES), activation="silu")
    if change == "thin":  # ReOrg, four levels and auxiliary heads, an eighth of the channels
        config = yolov7.VARIANTS[name]
        stages = tuple(yolov7.StageShape(**{k: v // 8 for k, v in vars(s).items()}) for s in config.stages)
        widths = {
            key: tuple(chs // 8 for chs in getattr(config, key))
            for key in ("stem_chs", "neck_chs", "branch_chs", "auxiliary_chs")
        }
        return yolov7.Network(dataclasses.replace(config, num_classes=len(CLASS_NAMES), stages=stages, **widths))
    return models.create(name, len(CLASS_NAMES))


def settle(network: nn.Module, pictures: Tensor) -> None:
    """Random weights through which signals neither vanish nor grow: batch norms take the statistics of the pictures."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.any():  # distances begin equal everywhere
            nn.init.normal_(module.weight, std=0.05)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(pictures)
    network.eval()


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)
    network = make_network(request.param)
    spec = ModelSpec(
        name=network.config.name,
        activation=network.config.activation,
        class_names=CLASS_NAMES,
        input=network.make_input_spec((SIDE, SIDE)),
        decode=network.decode,
    )
    train, test = open_dataset(BCCD, "train"), open_dataset(BCCD, "test")
    pictures = torch.cat([torch.from_numpy(make_input(train[i].image, spec.input)[0]) for i in range(8)])
    settle(network, pictures)
    recipe = msgspec.structs.replace(
        load_recipe("int8-max"), float_layers=HALF if request.param.endswith("half") else ()
    )
    hashes = {str(i): "0" * 64 for i in range(len(pictures))}
    quantized = quantize(network, pictures.split(1), recipe, recipe_name="int8-max", picture_hashes=hashes)
    folder = tmp_path_factory.mktemp("parity") / "int8"
    export_model(quantized, spec, folder)
    return Case(quantized, spec, folder, [test[i].image for i in range(16)])


def rms(rows: list[MapDifference]) -> list[float]:
    return [row.relative_rms for row in rows]


@pytest.mark.parametrize("case", WHOLE, indirect=True)
def test_fake_quant_and_onnxruntime_hold_the_same_integers(case: Case) -> None:
    model = onnx.load(case.folder / "model.onnx")
    rows = compare_integers(case.quantized, model, case.qparams(), case.batches())
    assert {row.tensor for row in rows} == {t for group in case.qparams().groups.values() for t in group.tensors}
    assert differing_part(rows, alone=True) < ALONE
    assert max(row.differing_alone / row.values for row in rows) < 10 * ALONE
    assert sum(row.ties for row in rows) < 1e-4 * sum(row.values for row in rows)
    for row in rows:
        if row.tensor == "images":
            assert row.differing == 0
    assert len({row.group for row in rows}) == len(case.qparams().groups)


@pytest.mark.parametrize("case", WHOLE, indirect=True)
def test_a_scale_that_is_off_by_a_hundredth_shows_in_the_integers(case: Case) -> None:
    qparams = case.qparams()
    name = next(group for group, plan in qparams.groups.items() if "images" not in plan.tensors)
    off = msgspec.structs.replace(qparams.groups[name], scale=1.01 * qparams.groups[name].scale)
    wrong = msgspec.structs.replace(qparams, groups=qparams.groups | {name: off})
    rows = compare_integers(case.quantized, onnx.load(case.folder / "model.onnx"), wrong, case.batches()[:1])
    assert max(row.differing_alone / row.values for row in rows if row.group == name) > 0.02


@pytest.mark.parametrize("case", CALM, indirect=True)
def test_raw_maps_of_the_engines_are_near_fake_quant(case: Case) -> None:
    fake_quant = TorchSession(case.quantized.fake_quant)
    quantization = rms(
        compare_maps(fake_quant, TorchSession(case.quantized.float_deploy), case.images, case.spec.input)
    )
    assert min(quantization) > 0
    for target in ("host-onnx", "host-ncnn", "host-openvino"):
        session = case.open(target)
        engine = rms(compare_maps(fake_quant, session, case.images, case.spec.input))
        session.close()
        assert len(engine) == case.spec.output_count
        assert all(a < SHARE * b for a, b in zip(engine, quantization, strict=True)), (target, engine, quantization)


@pytest.mark.parametrize("case", ["yolov7-tiny", "ppyoloe-s, half"], indirect=True)
def test_the_folder_opens_again_as_the_same_function(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the benchmark of parity, which has the folder only."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from reopen import reopen_quantized

    again, spec = reopen_quantized(case.folder)
    assert spec == case.spec
    assert again.placement == case.quantized.placement
    assert again.scales == case.quantized.scales
    batch = case.batches()[0]
    for one, other in (
        (again.fake_quant, case.quantized.fake_quant),
        (again.float_deploy, case.quantized.float_deploy),
    ):
        for a, b in zip(TorchSession(one).run(batch), TorchSession(other).run(batch), strict=True):
            np.testing.assert_array_equal(a, b)
