"""Official checkpoints: made here in their own layout, read by the registry."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import sys
import types

import pytest
import torch
from ppyoloe_by_its_authors import PaddleNet, paddle_arrays
from yolov7_by_its_authors import OFFICIAL_PLACES, STAND_INS, official_yolov7, randomise, save_pt

from edgeyolo import models
from edgeyolo.models import yolov7
from edgeyolo.models.yolov7.official import number_layers
from edgeyolo.nn.fold import fold_model
from edgeyolo.spec.errors import CheckpointError, UsageError
from edgeyolo.training.start import load_start


@pytest.fixture
def official_modules(monkeypatch):
    """The authors' modules exist while a test writes; the reader must not need them."""
    packages = {name: types.ModuleType(name) for name in ("models", "models.common", "models.yolo")}
    for cls in STAND_INS:
        place = OFFICIAL_PLACES.get(cls.__name__, "models.common")
        monkeypatch.setattr(cls, "__module__", place)
        setattr(packages[place], cls.__name__, cls)
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    return packages


def narrow(name):
    """The variant's topology, its channels divided."""
    config = yolov7.VARIANTS[name]
    part = 8 if config.image_size == 640 else 16
    return dataclasses.replace(
        config,
        num_classes=3,
        stem_chs=tuple(c // part for c in config.stem_chs),
        stages=tuple(
            yolov7.StageShape(down_chs=s.down_chs // part, elan_chs=s.elan_chs // part, out_chs=s.out_chs // part)
            for s in config.stages
        ),
        neck_chs=tuple(c // part for c in config.neck_chs),
        branch_chs=tuple(c // part for c in config.branch_chs),
        auxiliary_chs=tuple(c // part for c in config.auxiliary_chs),
    )


OUTPUT_ROWS = {  # of the authors' training configurations
    "yolov7-tiny": 77,
    "yolov7": 105,
    "yolov7x": 121,
    "yolov7-w6": 122,
    "yolov7-e6": 144,
    "yolov7-d6": 166,
    "yolov7-e6e": 265,
}
SPP_AND_ROUTES = {  # module of ours -> its row there
    "yolov7-tiny": {"neck.spp.join": 37, "neck.merges.0.elan.join": 47, "neck.rejoins.1.elan.join": 73},
    "yolov7": {"neck.spp.join": "51.cv7", "neck.merges.0.elan.join": 63, "neck.rejoins.0.elan.join": 88},
    "yolov7x": {"neck.spp.join": "59.cv7", "neck.merges.1.elan.join": 87, "neck.rejoins.1.elan.join": 117},
    "yolov7-w6": {"neck.spp.join": "47.cv7", "neck.merges.2.elan.join": 83, "neck.rejoins.2.elan.join": 113},
    "yolov7-e6": {"backbone.stages.4.0.entry": "46.cv1", "neck.rejoins.2.elan.join": 135},
    "yolov7-d6": {"backbone.stages.4.0.entry": "54.cv1", "neck.rejoins.2.elan.join": 157},
    "yolov7-e6e": {"neck.merges.2.elan.second.join": 186, "neck.rejoins.2.elan.first.join": 245},
}


@pytest.mark.parametrize("name", OUTPUT_ROWS)
def test_rows_have_the_published_numbers(name):
    config = yolov7.VARIANTS[name]
    paths, output = number_layers(config, auxiliary=bool(config.auxiliary_chs))
    assert output == f"model.{OUTPUT_ROWS[name]}"
    for path, row in SPP_AND_ROUTES[name].items():
        assert paths[path] == f"model.{row}"


@pytest.mark.parametrize("kind", ["training", "Detect"])
@pytest.mark.parametrize("name", OUTPUT_ROWS)
def test_every_yolov7_gives_the_maps_of_its_authors_layers(name, kind, tmp_path, official_modules):
    """All seven topologies, narrow; in half precision the weights are the same numbers on both sides."""
    torch.manual_seed(1)
    config = narrow(name)
    training = "IAuxDetect" if config.auxiliary_chs else "IDetect"
    network = official_yolov7(config, training if kind == "training" else kind).half()
    save_pt(tmp_path / "official.pt", network)
    for package in official_modules:
        sys.modules.pop(package)
    model = yolov7.Network(config)
    fresh = models.load_official_weights(model, tmp_path / "official.pt")
    assert all(n.startswith("auxiliary.") for n in fresh)
    assert bool(fresh) == (kind == "Detect" and bool(config.auxiliary_chs))
    images = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        expected = network.float()(images)
        maps = model.eval()(images)
        folded = fold_model(model)(images)
    for wanted, found, deploy in zip(expected, maps, folded, strict=False):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(deploy, wanted, atol=1e-3, rtol=1e-3)
    assert all(m.std() > 1e-3 for m in maps)
    if training == kind == "IAuxDetect" and not config.double:
        descent = model.neck(model.backbone(images))[1]
        for wanted, found in zip(expected[len(maps) :], model.auxiliary(descent), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_averaged_weights_go_first_and_the_module_may_come_alone(tmp_path, official_modules):
    torch.manual_seed(2)
    config = yolov7.VARIANTS["yolov7-tiny"]
    trained, averaged = official_yolov7(config), official_yolov7(config)
    assert not torch.equal(trained.model[0].conv.weight, averaged.model[0].conv.weight)
    save_pt(tmp_path / "both.pt", trained, ema=averaged)
    torch.save(averaged, tmp_path / "alone.pt")
    torch.save({"model": averaged.state_dict()}, tmp_path / "state.pt")
    for name in ("both.pt", "alone.pt", "state.pt"):
        model = models.load_pretrained("yolov7-tiny", tmp_path / name)
        assert not model.training
        assert model.config.num_classes == 80
        assert torch.equal(model.backbone.stem[0].conv.weight, averaged.model[0].conv.weight)


def test_a_head_of_other_classes_is_made_anew_and_said(tmp_path, official_modules, caplog):
    config = dataclasses.replace(yolov7.VARIANTS["yolov7-tiny"], num_classes=7)
    save_pt(tmp_path / "seven.pt", official_yolov7(config))
    assert models.load_pretrained("yolov7-tiny", tmp_path / "seven.pt").config.num_classes == 7
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        model = models.load_pretrained("yolov7-tiny", tmp_path / "seven.pt", num_classes=2)
    assert "is for 7 classes, not 2: its outputs are made anew" in caplog.text
    assert model(torch.rand(1, 3, 64, 64))[0].shape == (1, 21, 8, 8)
    whole = models.load_pretrained("yolov7-tiny", tmp_path / "seven.pt")
    kept = [n for n, v in model.state_dict().items() if torch.equal(v, whole.state_dict()[n])]
    assert {n for n in whole.state_dict() if n not in kept} == {
        f"head.outputs.{i}.{part}" for i in range(3) for part in ("conv.weight", "conv.bias", "scale")
    }


def test_another_variant_is_refused_with_the_tensors_that_differ(tmp_path, official_modules):
    save_pt(tmp_path / "tiny.pt", official_yolov7(yolov7.VARIANTS["yolov7-tiny"]))
    differing = (
        r"fit yolov7: tensors \d+ missing \(model\.6\.conv\.weight.* 98 unknown .*2\.conv\.weight 32x64x1x1, not 64x64"
    )
    with pytest.raises(CheckpointError, match=differing):
        models.load_pretrained("yolov7", tmp_path / "tiny.pt")
    save_pt(tmp_path / "narrow.pt", official_yolov7(narrow("yolov7-tiny")))
    with pytest.raises(CheckpointError, match=r"of another shape \(model\.0\.conv\.weight 4x3x3x3, not 32x3x3x3"):
        models.load_pretrained("yolov7-tiny", tmp_path / "narrow.pt")


def test_other_anchors_are_refused(tmp_path, official_modules):
    config = yolov7.VARIANTS["yolov7-tiny"]
    anchors = [[list(wh) for wh in level] for level in config.anchors_wh]
    anchors[1][2] = [70, 90]
    save_pt(tmp_path / "auto.pt", official_yolov7(config, anchors=anchors).half())
    with pytest.raises(CheckpointError, match=r"other anchors than yolov7-tiny: 30x61, 62x45, 70x90 at stride 16"):
        models.load_pretrained("yolov7-tiny", tmp_path / "auto.pt")


def test_values_that_are_not_numbers_are_refused(tmp_path, official_modules):
    network = official_yolov7(yolov7.VARIANTS["yolov7-tiny"])
    network.model[7].bn.weight.data[3] = torch.nan
    save_pt(tmp_path / "nan.pt", network)
    with pytest.raises(CheckpointError, match=r"not numbers in model\.7\.bn\.weight"):
        models.load_pretrained("yolov7-tiny", tmp_path / "nan.pt")


def test_training_starts_from_an_official_file(tmp_path, official_modules):
    config = dataclasses.replace(yolov7.VARIANTS["yolov7-tiny"], num_classes=7)
    network = official_yolov7(config)
    save_pt(tmp_path / "seven.pt", network)
    model = models.create("yolov7-tiny", 2)
    load_start(model, tmp_path / "seven.pt")
    assert torch.equal(model.neck.spp.join.conv.weight, network.model[37].conv.weight)
    with pytest.raises(UsageError, match="no weights are published"):
        load_start(models.create("yolov7-nano", 2), tmp_path / "seven.pt")


def test_nothing_is_published_for_nano(tmp_path):
    with pytest.raises(UsageError, match="no weights are published"):
        models.load_pretrained("yolov7-nano", tmp_path / "x.pt")
    licences = [models.measure_model(name).licence for name in ("yolov7-nano", "yolov7-tiny", "ppyoloe-s")]
    assert licences == ["none published", "GPL-3.0", "Apache-2.0"]


class PairedTensor:
    """How paddle.save writes a tensor: (its own name, array)."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return tuple, (("conv2d_0.w_0", self.array),)


@pytest.mark.parametrize(
    ("name", "form"),
    [("ppyoloe-s", "arrays, protocol 2"), ("ppyoloe-plus-m", "arrays, protocol 4"), ("ppyoloe-plus-s", "paddle.save")],
)
def test_every_ppyoloe_gives_the_maps_of_paddles_layers(name, form, tmp_path):
    torch.manual_seed(4)
    size = {"s": (0.33, 0.5), "m": (0.67, 0.75)}[name[-1]]
    network = randomise(PaddleNet(*size, "plus" in name, 5))
    arrays = paddle_arrays(network)
    if form == "paddle.save":
        saved = {n: PairedTensor(a) for n, a in arrays.items()}
    else:
        saved = {**arrays, "StructuredToParameterName@@": dict.fromkeys(arrays, "conv2d_0.w_0")}
    path = tmp_path / "official.pdparams"
    path.write_bytes(pickle.dumps(saved, protocol=2 if "2" in form else 4))
    model = models.load_pretrained(name, path)
    assert model.config.num_classes == 5
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for wanted, found in zip(network(images), model(images), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    other = models.load_pretrained(name, path, num_classes=2)
    assert [m.shape[1] for m in other(images)] == [2, 68] * 3
    assert torch.equal(other.head_8.box_logits.weight, model.head_8.box_logits.weight)
    wrong = "ppyoloe-s" if "plus" in name else "ppyoloe-plus-s"
    with pytest.raises(CheckpointError, match=r"tensors \d+ (missing|unknown) \(backbone\.stages\.0\.blocks\.0\.conv2"):
        models.load_pretrained(wrong, path)
