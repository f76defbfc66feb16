"""Official checkpoints: made here in their own layout, read by the registry; and files that mean harm, refused.

The stand-ins are written from the published layout (numbered layers with "from" indices for YOLOv7, nested layers for
PP-YOLOE), run as the authors' code would, and saved under the authors' module names.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.models import yolov7
from edgeyolo.models._yolov7_official import number_layers
from edgeyolo.nn.fold import fold_model
from edgeyolo.spec.errors import CheckpointError, UsageError
from edgeyolo.training.run import load_start

# ---- stand-ins for the YOLOv7 repository


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, act="silu"):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU() if act == "silu" else nn.LeakyReLU(0.1)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class RepConv(nn.Module):
    def __init__(self, c1, c2, act):
        super().__init__()
        self.act = nn.SiLU()
        self.rbr_dense = nn.Sequential(nn.Conv2d(c1, c2, 3, 1, 1, bias=False), nn.BatchNorm2d(c2, eps=1e-3))
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(c1, c2, 1, bias=False), nn.BatchNorm2d(c2, eps=1e-3))

    def forward(self, x):
        return self.act(self.rbr_dense(x) + self.rbr_1x1(x))


class SPPCSPC(nn.Module):
    def __init__(self, c1, c2, act):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c2), Conv(c1, c2)
        self.cv3, self.cv4 = Conv(c2, c2, 3), Conv(c2, c2)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
        self.cv5, self.cv6, self.cv7 = Conv(4 * c2, c2), Conv(c2, c2, 3), Conv(2 * c2, c2)

    def forward(self, x):
        inner = self.cv4(self.cv3(self.cv1(x)))
        deep = self.cv6(self.cv5(torch.cat([inner] + [m(inner) for m in self.m], 1)))
        return self.cv7(torch.cat([deep, self.cv2(x)], 1))


class DownC(nn.Module):
    def __init__(self, c1, c2, act):
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(c1, c1), Conv(c1, c2 // 2, 3, 2), Conv(c1, c2 // 2)
        self.mp = nn.MaxPool2d(2, 2)

    def forward(self, x):
        return torch.cat([self.cv2(self.cv1(x)), self.cv3(self.mp(x))], 1)


class ReOrg(nn.Module):
    def forward(self, x):
        return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


class MP(nn.Module):
    def __init__(self, k=2, s=2):
        super().__init__()
        self.m = nn.MaxPool2d(k, s, k // 2 if s == 1 else 0)

    def forward(self, x):
        return self.m(x)


class Concat(nn.Module):
    def forward(self, xs):
        return torch.cat(xs, 1)


class Shortcut(nn.Module):
    def forward(self, xs):
        return xs[0] + xs[1]


class Implicit(nn.Module):
    def __init__(self, chs, mean):
        super().__init__()
        self.implicit = nn.Parameter(torch.randn(1, chs, 1, 1) * 0.2 + mean)


class Detect(nn.Module):
    """The output layer; `kind` is Detect, IDetect or IAuxDetect."""

    def __init__(self, classes, anchors, chs, kind):
        super().__init__()
        out = len(anchors[0]) * (5 + classes)
        wh = torch.tensor(anchors, dtype=torch.float32)
        levels = len(anchors)
        strides = torch.tensor([8.0 * 2**i for i in range(levels)])
        self.stride = strides
        self.register_buffer("anchors", wh / strides[:, None, None])
        self.register_buffer("anchor_grid", wh.view(levels, 1, -1, 1, 1, 2))
        self.m = nn.ModuleList(nn.Conv2d(c, out, 1) for c in chs[:levels])
        if kind == "IAuxDetect":
            self.m2 = nn.ModuleList(nn.Conv2d(c, out, 1) for c in chs[levels:])
        if kind != "Detect":
            self.ia = nn.ModuleList(Implicit(c, 0) for c in chs[:levels])
            self.im = nn.ModuleList(Implicit(out, 1) for _ in chs[:levels])

    def forward(self, xs):
        if hasattr(self, "ia"):
            maps = [
                m(x + a.implicit) * s.implicit
                for m, x, a, s in zip(self.m, xs[: len(self.m)], self.ia, self.im, strict=True)
            ]
        else:
            maps = [m(x) for m, x in zip(self.m, xs, strict=True)]
        auxiliary = getattr(self, "m2", ())
        return maps + [m(x) for m, x in zip(auxiliary, xs[len(self.m) :], strict=True)]


class Model(nn.Module):
    """Runs a list of numbered layers; each has the indices it reads in `f`."""

    def __init__(self, layers):
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.names = ["cell", "other"]
        self.yaml = {"depth_multiple": 1.0, "anchors": [[1, 2], [3, 4]]}
        self.stride = torch.tensor([8.0, 16.0, 32.0])

    def forward(self, x):
        outputs = []
        for layer in self.model:
            read = [x if f == -1 and not outputs else outputs[f] for f in layer.f]
            single = not isinstance(layer, Concat | Shortcut | Detect)
            outputs.append(layer(read[0] if single else read))
        return outputs[-1]


OFFICIAL_PLACES = {"Model": "models.yolo", "Detect": "models.yolo"}
STAND_INS = (Conv, RepConv, SPPCSPC, DownC, ReOrg, MP, Concat, Shortcut, Implicit, Detect, Model)


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


class Layers:
    """Writes the numbered list, one row at a time, as the authors' configuration files do."""

    def __init__(self, act):
        self.rows, self.chs, self.act = [], [], act

    def add(self, layer, f, chs):
        layer.f = [len(self.rows) + i if i < 0 and self.rows else i for i in f]
        self.rows.append(layer)
        self.chs.append(chs)
        return len(self.rows) - 1

    def at(self, f):
        return self.chs[f] if self.rows else 3

    def conv(self, chs, k=1, s=1, f=-1):
        return self.add(Conv(self.at(f), chs, k, s, self.act), [f], chs)

    def cat(self, *f):
        return self.add(Concat(), list(f), sum(self.chs[i] for i in f))

    def pool(self, k=2, s=2, f=-1):
        return self.add(MP(k, s), [f], self.chs[f])

    def block(self, cls, chs, f=-1):
        return self.add(cls(self.chs[f], chs, self.act), [f], chs)

    def elan(self, branch, chain, out, depth, step, source=None):
        source = len(self.rows) - 1 if source is None else source
        kept = [self.conv(branch, f=source), self.conv(branch, f=source)]
        for position in range(1, depth + 1):
            index = self.conv(chain, 3)
            if position % step == 0:
                kept.append(index)
        self.cat(*reversed(kept))
        return self.conv(out)

    def elans(self, *shape, double):
        source = len(self.rows) - 1
        first = self.elan(*shape, source)
        if not double:
            return first
        second = self.elan(*shape, source)
        return self.add(Shortcut(), [second, first], self.chs[first])

    def down(self, kind, chs, *also):
        """Down-sampling; concatenated with `also` if there is any."""
        if kind == "pool-conv":
            source = self.pool() - 1
            pooled = self.conv(chs // 2)
            self.conv(chs // 2, f=source)
            return self.cat(self.conv(chs // 2, 3, 2), pooled, *also)
        last = self.conv(chs, 3, 2) if kind == "conv" else self.block(DownC, chs)
        return self.cat(last, *also) if also else last


def official_yolov7(config, kind="IDetect", anchors=None):
    """The authors' network of this size, random weights; written from their layer lists, not from our modules."""
    tiny, double, depth = config.tiny_spp, config.double, config.elan_depth
    rows = Layers("leaky" if tiny else "silu")
    if config.reorg:
        rows.add(ReOrg(), [-1], 12)
        rows.conv(config.stem_chs[0], 3)
    else:
        for position, chs in enumerate(config.stem_chs):
            rows.conv(chs, 3, 2 if position == len(config.stem_chs) // 2 else 1)
    features = []
    for position, stage in enumerate(config.stages):
        if tiny and position:
            rows.pool()
        else:
            rows.down("conv" if position == 0 and config.down != "wide" else config.down, stage.down_chs)
        shape = (stage.elan_chs, stage.elan_chs, stage.out_chs, depth, config.backbone_step)
        features.append(rows.elans(*shape, double=double))
    chs = config.neck_chs
    if tiny:
        skip = rows.conv(chs[-1])
        entry = rows.conv(chs[-1], f=skip - 1)
        pools = [rows.pool(k, 1, entry) for k in (5, 9, 13)]
        rows.cat(*reversed(pools), entry)
        deep = rows.conv(chs[-1])
        rows.cat(deep, skip)
        descent = [rows.conv(chs[-1])]
    else:
        descent = [rows.block(SPPCSPC, chs[-1])]

    def neck_elan(level):
        branch = config.branch_chs[level]
        chain = branch if config.chain_share == 1 else branch // 2
        return rows.elans(branch, chain, chs[level], depth, config.neck_step, double=double)

    for level in reversed(range(len(chs) - 1)):
        rows.conv(chs[level])
        up = rows.add(nn.Upsample(scale_factor=2, mode="nearest"), [-1], chs[level])
        rows.cat(rows.conv(chs[level], f=features[level + 1]), up)
        descent.insert(0, neck_elan(level))
    ascent = [descent[0]]
    for level in range(1, len(chs)):
        rows.down("conv" if tiny else config.down, chs[level], descent[level])
        ascent.append(neck_elan(level))
    outputs = []
    for index, width in zip(ascent, chs, strict=True):
        transform = rows.block(RepConv, 2 * width, index) if config.rep_heads else rows.conv(2 * width, 3, f=index)
        outputs.append(transform)
    if kind == "IAuxDetect":
        outputs += [rows.conv(c, 3, f=i) for i, c in zip(descent, config.auxiliary_chs, strict=True)]
    detect = Detect(config.num_classes, anchors or config.anchors_wh, [rows.chs[i] for i in outputs], kind)
    rows.add(detect, outputs, 0)
    return randomise(Model(rows.rows))


def randomise(network):
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.weight.shape
            module.weight.data = torch.rand(size, generator=generator) + 0.5
            module.bias.data = torch.rand(size, generator=generator) - 0.5
            module.running_mean = torch.rand(size, generator=generator) - 0.5
            module.running_var = torch.rand(size, generator=generator) * 0.5 + 0.5
    return network.eval()


def save_pt(path, network, **entries):
    """As the authors save: half precision, whole modules, and numbers of the run beside."""
    checkpoint = {"epoch": -1, "best_fitness": np.float64(0.5), "model": network, "ema": None, "optimizer": None}
    torch.save(checkpoint | entries, path)


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
    licences = [models._measure(name).licence for name in ("yolov7-nano", "yolov7-tiny", "ppyoloe-s")]
    assert licences == ["none published", "GPL-3.0", "Apache-2.0"]


# ---- stand-ins for PaddleDetection: what matters of it is names, order and arithmetic


def paddle_conv(c1, c2, k=1, s=1, act=True):
    parts = OrderedDict(conv=nn.Conv2d(c1, c2, k, s, k // 2, bias=False), bn=nn.BatchNorm2d(c2))
    if act:
        parts["act"] = nn.SiLU()
    return nn.Sequential(parts)


class PaddleRep(nn.Module):
    def __init__(self, chs, alpha):
        super().__init__()
        self.conv1, self.conv2 = paddle_conv(chs, chs, 3, act=False), paddle_conv(chs, chs, act=False)
        if alpha:
            self.alpha = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x):
        return F.silu(self.conv1(x) + getattr(self, "alpha", 1) * self.conv2(x))


class PaddleBlock(nn.Module):
    def __init__(self, chs, shortcut, alpha=False):
        super().__init__()
        self.conv1, self.conv2, self.shortcut = paddle_conv(chs, chs, 3), PaddleRep(chs, alpha), shortcut

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class PaddleSpp(nn.Module):
    def __init__(self, chs):
        super().__init__()
        self.conv = paddle_conv(4 * chs, chs)

    def forward(self, x):
        return self.conv(torch.cat([x] + [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)], 1))


class PaddleStage(nn.Module):
    """Backbone stage with `conv_down`, or neck stage with `convs`."""

    def __init__(self, c1, c2, count, *, neck, alpha=False, spp=False):
        super().__init__()
        self.neck = neck
        middle = c1 if neck else (c1 + c2) // 2
        half = c2 // 2 if neck else middle // 2
        if not neck:
            self.conv_down = paddle_conv(c1, middle, 3, 2)
            self.attn = nn.ModuleDict({"fc": nn.Conv2d(middle, middle, 1)})
        self.conv1, self.conv2 = paddle_conv(middle, half), paddle_conv(middle, half)
        blocks = OrderedDict()
        for i in range(count):
            blocks[str(i)] = PaddleBlock(half, not neck, alpha)
            if spp and i == (count - 1) // 2:
                blocks["spp"] = PaddleSpp(half)
        setattr(self, "convs" if neck else "blocks", nn.Sequential(blocks))
        self.conv3 = paddle_conv(2 * half, c2)

    def forward(self, x):
        if not self.neck:
            x = self.conv_down(x)
        blocks = self.convs if self.neck else self.blocks
        y = torch.cat([self.conv1(x), blocks(self.conv2(x))], 1)
        if not self.neck:
            y = y * F.hardsigmoid(self.attn["fc"](y.mean((2, 3), keepdim=True)))
        return self.conv3(y)


class PaddleNet(nn.Module):
    def __init__(self, depth, width, alpha, classes):
        super().__init__()
        c = [round(n * width) for n in (64, 128, 256, 512, 1024)]
        stem = OrderedDict(conv1=paddle_conv(3, c[0] // 2, 3, 2), conv2=paddle_conv(c[0] // 2, c[0] // 2, 3))
        stem["conv3"] = paddle_conv(c[0] // 2, c[0], 3)
        counts = [max(1, round(n * depth)) for n in (3, 6, 6, 3)]
        stages = [PaddleStage(c[i], c[i + 1], counts[i], neck=False, alpha=alpha) for i in range(4)]
        self.backbone = nn.ModuleDict({"stem": nn.Sequential(stem), "stages": nn.Sequential(*stages)})
        o, n = [round(x * width) for x in (768, 384, 192)], max(1, round(3 * depth))
        down = [c[4], c[3] + o[0] // 2, c[2] + o[1] // 2]
        self.neck = nn.ModuleDict(
            {
                "fpn_stages": nn.ModuleList(
                    nn.Sequential(PaddleStage(down[i], o[i], n, neck=True, spp=i == 0)) for i in range(3)
                ),
                "fpn_routes": nn.ModuleList(paddle_conv(o[i], o[i] // 2) for i in range(2)),
                "pan_stages": nn.ModuleList(
                    nn.Sequential(PaddleStage(o[i] + o[i + 1], o[i], n, neck=True)) for i in range(2)
                ),
                "pan_routes": nn.ModuleList(paddle_conv(o[i + 1], o[i + 1], 3, 2) for i in range(2)),
            }
        )

        def attention(chs):
            return nn.ModuleDict({"fc": nn.Conv2d(chs, chs, 1), "conv": paddle_conv(chs, chs)})

        self.yolo_head = nn.ModuleDict(
            {
                "stem_cls": nn.ModuleList(attention(x) for x in o),
                "stem_reg": nn.ModuleList(attention(x) for x in o),
                "pred_cls": nn.ModuleList(nn.Conv2d(x, classes, 3, padding=1) for x in o),
                "pred_reg": nn.ModuleList(nn.Conv2d(x, 68, 3, padding=1) for x in o),
                "proj_conv": nn.Conv2d(17, 1, 1, bias=False),
            }
        )

    def forward(self, x):
        x, features = self.backbone["stem"](x), []
        for stage in self.backbone["stages"]:
            x = stage(x)
            features.insert(0, x)
        fpn, neck = [], self.neck
        for i in range(3):
            x = features[i]
            if i:
                up = F.interpolate(neck["fpn_routes"][i - 1](fpn[-1]), scale_factor=2.0)
                x = torch.cat([up, x], 1)
            fpn.append(neck["fpn_stages"][i](x))
        pan = [fpn[2]]
        for i in (1, 0):
            pan.insert(0, neck["pan_stages"][i](torch.cat([neck["pan_routes"][i](pan[0]), fpn[i]], 1)))
        maps, head = [], self.yolo_head
        for i in (2, 1, 0):
            feat = pan[i]
            mean = feat.mean((2, 3), keepdim=True)
            cls, reg = (
                part["conv"](feat * torch.sigmoid(part["fc"](mean)))
                for part in (head["stem_cls"][i], head["stem_reg"][i])
            )
            maps += [head["pred_cls"][i](cls + feat), head["pred_reg"][i](reg)]
        return maps


def paddle_arrays(network):
    """Names as paddle gives them: statistics are `_mean` and `_variance`, and nothing counts batches."""
    renamed = {}
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            renamed[name.replace("running_mean", "_mean").replace("running_var", "_variance")] = value.numpy()
    return renamed


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


# ---- files that mean harm


class Harm:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def canary_command(tmp_path):
    return f"touch {tmp_path / 'canary'}"


def raw_pickle(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def harmful_pickles(command):
    """Name -> (bytes, what the error must name)."""
    system, evaluate = named("os", "system"), named("builtins", "eval")
    code = f"__import__('os').system({command!r})"
    arguments = text(command) + b"\x85"
    holder = named("torch.nn.modules.linear", "Identity")
    return {
        "reduce": (pickle.dumps({"a": Harm(os.system, command)}, 2), "system"),
        "eval": (raw_pickle(evaluate, text(code), b"\x85R"), "builtins.eval"),
        "exec, old name": (raw_pickle(named("__builtin__", "exec"), text(code), b"\x85R"), "__builtin__.exec"),
        "getattr": (raw_pickle(named("builtins", "getattr"), holder, text("x"), b"\x86R"), "builtins.getattr"),
        "stack global": (b"\x80\x04" + text("os") + text("system") + b"\x93" + arguments + b"R.", "os.system"),
        "newobj": (raw_pickle(system, arguments, b"\x81"), "os.system"),
        "newobj_ex": (b"\x80\x04" + system + arguments + b"}\x92.", "os.system"),
        "inst": (b"(" + text(command) + b"ios\nsystem\n.", "os.system"),
        "obj": (raw_pickle(b"(", system, text(command), b"o"), "os.system"),
        "extension": (raw_pickle(b"\x82\x01"), "EXT1"),
        "persistent id": (raw_pickle(b"Pid\n"), "PERSID"),
        "in a state": (raw_pickle(b"}", system, arguments, b"Rb"), "os.system"),
        "a key": (raw_pickle(b"}", system, arguments, b"RNs"), "os.system"),
        "a dotted name": (b"\x80\x04" + text("torch._utils") + text("os.system") + b"\x93.", "torch._utils.os.system"),
        "torch's own loader": (raw_pickle(named("torch.storage", "_load_from_bytes")), "_load_from_bytes"),
        "numpy's loader": (raw_pickle(named("numpy", "load"), text("x"), b"\x85R"), "numpy.load"),
        "a call of data": (raw_pickle(text("print"), text("x"), b"\x85R"), "a call of str"),
        "state for a list": (raw_pickle(b"]}b"), "state for list"),
        "an array of objects": (
            raw_pickle(named("numpy", "dtype"), text("O8"), b"\x89\x88\x87R"),
            "arrays of 'O8'",
        ),
        "deep tuple as a key": (raw_pickle(b"}", b")" + b"\x85" * 200_000, b"Ns"), "key that is a tuple"),
        "doubled tuple as a key": (raw_pickle(b"}", b")" + b"q\x00h\x00\x86" * 64, b"Ns"), "key that is a tuple"),
        "doubled tuple in a set": (
            raw_pickle(named("builtins", "set"), b"](", b")" + b"q\x00h\x00\x86" * 64, b"e\x85R"),
            "key that is a tuple",
        ),
        "doubled tuple as a dtype": (
            raw_pickle(named("numpy", "dtype"), b")" + b"q\x00h\x00\x86" * 64, b"\x85R"),
            "arrays of no type",
        ),
        "one list copied for ever": (
            raw_pickle(b"](" + b"N" * 50_000 + b"eq\x000", (named("builtins", "tuple") + b"h\x00\x85R0") * 500, b"N"),
            "unfolds to more",
        ),
        "text that claims 2 GiB": (raw_pickle(b"X\xff\xff\xff\x7fabc"), "cannot be read"),
        "bytes that claim an exabyte": (b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"abc.", "cannot be read"),
        "a memo of four thousand million": (raw_pickle(b"Nr\xff\xff\xff\xff"), "holds no"),
        "pop of nothing": (raw_pickle(b"0"), "cannot be read"),
        "mark of nothing": (raw_pickle(b"e"), "cannot be read"),
        "memo of nothing": (raw_pickle(b"h\x07"), "cannot be read"),
        "cut short": (pickle.dumps({"a": np.ones(9)}, 4)[:-40], "cannot be read"),
        "no pickle": (b"\x00\x01\x02 something else", "cannot be read"),
        "empty": (b"", "cannot be read"),
        "a number": (pickle.dumps(3), "holds no"),
    }


HARMFUL = list(harmful_pickles("true"))


def zip_of(path, data, storages=(), **changes):
    """A torch archive around a pickle."""
    with zipfile.ZipFile(path, "w", **changes) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, raw in storages:
            archive.writestr(f"archive/data/{key}", raw)


@pytest.mark.parametrize("container", ["official.pdparams", "official.pt"])
@pytest.mark.parametrize("harm", HARMFUL)
def test_harmful_pickles_are_refused_by_name(harm, container, tmp_path):
    data, named_in_error = harmful_pickles(canary_command(tmp_path))[harm]
    path = tmp_path / container
    if container.endswith(".pt"):
        zip_of(path, data)
    else:
        path.write_bytes(data)
    model = "yolov7-tiny" if container.endswith(".pt") else "ppyoloe-s"
    with pytest.raises(CheckpointError) as caught:
        models.load_pretrained(model, path)
    assert named_in_error in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_sing(tmp_path):
    """The harm is real: the ordinary unpickler does what the files ask."""
    for harm in ("reduce", "eval", "inst", "obj"):
        pickle.loads(harmful_pickles(canary_command(tmp_path))[harm][0])
        (tmp_path / "canary").unlink()


def test_classes_that_the_file_names_stay_names(tmp_path, monkeypatch):
    """A class of the file that exists here, with constructor and __setstate__ that do harm: neither runs."""
    module = types.ModuleType("models.common")
    ran = []

    class Conv(nn.Module):
        def __new__(cls, *args):
            ran.append("new")
            return super().__new__(cls)

        def __setstate__(self, state):
            ran.append("setstate")

    Conv.__module__, Conv.__qualname__ = "models.common", "Conv"
    module.Conv = Conv
    monkeypatch.setitem(sys.modules, "models.common", module)
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    torch.save({"model": Conv()}, tmp_path / "x.pt")
    ran.clear()
    with pytest.raises(CheckpointError, match=r"missing \(model\.0"):
        models.load_pretrained("yolov7-tiny", tmp_path / "x.pt")
    assert ran == []


def tensor_pickle(count, offset, size, stride, kind="FloatStorage", key="0"):
    """{"a": a tensor} over one storage, with whatever numbers."""
    buffer = io.BytesIO()
    pickler = pickle._Pickler(buffer, 2)
    buffer.write(b"\x80\x02}" + text("a") + named("torch._utils", "_rebuild_tensor_v2") + b"((")
    buffer.write(text("storage") + named("torch", kind) + text(key) + text("cpu"))
    pickler.save_long(count)
    buffer.write(b"tQ")
    for value in (offset, size, stride):
        if isinstance(value, tuple):
            buffer.write(b"(")
            for side in value:
                pickler.save_long(side)
            buffer.write(b"t")
        else:
            pickler.save_long(value)
    buffer.write(b"\x89" + named("collections", "OrderedDict") + b")RtRs.")
    return buffer.getvalue()


LYING = {
    "more numbers than bytes": (tensor_pickle(100, 0, (4,), (1,)), "has 4 numbers where it should have 100"),
    "fewer": (tensor_pickle(2, 0, (2,), (1,)), "has 4 numbers where it should have 2"),
    "other type": (tensor_pickle(4, 0, (2,), (1,), "DoubleStorage"), "has 2 numbers where it should have 4"),
    "too large": (tensor_pickle(4, 0, (5,), (1,)), "beyond its storage"),
    "offset": (tensor_pickle(4, 3, (2,), (1,)), "beyond its storage"),
    "stride": (tensor_pickle(4, 0, (2,), (4,)), "beyond its storage"),
    "negative offset": (tensor_pickle(4, -1, (2,), (1,)), "negative"),
    "negative stride": (tensor_pickle(4, 3, (2,), (-1,)), "negative"),
    "unfolded": (tensor_pickle(4, 0, (1 << 20, 1 << 20), (0, 0)), "beyond its storage"),
    "endless": (tensor_pickle(4, 0, (1 << 70, 0), (1, 1)), "cannot be read"),
    "dimensions": (tensor_pickle(4, 0, (1,) * 5000, (1,) * 5000), "5000 dimensions"),
    "no such storage": (tensor_pickle(4, 0, (4,), (1,), key="../data.pkl"), "cannot be read"),
    "no storage type": (tensor_pickle(4, 0, (4,), (1,), "UntypedStorage"), "torch.UntypedStorage"),
}


@pytest.mark.parametrize("lie", LYING)
def test_tensors_stay_inside_of_their_storage(lie, tmp_path):
    data, message = LYING[lie]
    zip_of(tmp_path / "x.pt", data, [("0", np.arange(4, dtype=np.float32).tobytes())])
    with pytest.raises(CheckpointError, match=message):
        models.load_pretrained("yolov7-tiny", tmp_path / "x.pt")


def test_an_honest_tensor_is_read(tmp_path):
    """The same writer, with true numbers, gets past the storage: only the model does not fit."""
    zip_of(tmp_path / "x.pt", tensor_pickle(4, 1, (3,), (1,)), [("0", np.arange(4, dtype=np.float32).tobytes())])
    with pytest.raises(CheckpointError, match=r"1 unknown \(a\)"):
        models.load_pretrained("yolov7-tiny", tmp_path / "x.pt")


def test_modules_without_end_are_refused(tmp_path):
    """A module that holds itself, and forty levels of two that are one."""
    holder = named("torch.nn.modules.container", "Sequential")
    itself = raw_pickle(b"}", text("model"), holder, b")\x81q\x00}", text("_modules"), b"}", text("0"), b"h\x00ssbs")
    double = b"".join(
        holder + b")\x81}" + text("_modules") + b"}" + text("a") + f"g{i}\ns".encode() + text("b")
        + f"g{i}\nssbp{i + 1}\n0".encode()
        for i in range(18)
    )  # fmt: skip
    start = holder + b")\x81p0\n0"
    doubled = b"\x80\x02" + start + double + b"}" + text("model") + b"g18\ns."
    for data in (itself, doubled):
        zip_of(tmp_path / "x.pt", data)
        with pytest.raises(CheckpointError, match="without end"):
            models.load_pretrained("yolov7-tiny", tmp_path / "x.pt")


def test_zips_that_lie_about_sizes_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    zip_of(path, pickle.dumps({}, 2), [("0", b"\0" * 100_000_000)], compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    with pytest.raises(CheckpointError, match="compressed entries"):
        models.load_pretrained("yolov7-tiny", path)
    zip_of(path, pickle.dumps({}, 2), [("0", b"\0" * 64)])
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[central + 20 : central + 28] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="larger than the file"):
        models.load_pretrained("yolov7-tiny", path)
    path.write_bytes(bytes(data[:-30]))
    with pytest.raises(CheckpointError, match="cannot be read"):
        models.load_pretrained("yolov7-tiny", path)


def test_files_of_another_kind_are_named_as_such(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        models.load_pretrained("yolov7-tiny", tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        models.load_pretrained("yolov7-tiny", tmp_path)
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="not one of torch"):
        models.load_pretrained("yolov7-tiny", tmp_path / "x.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch before 1\.6"):
        models.load_pretrained("yolov7-tiny", tmp_path / "old.pt")


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_never_give_anything_but_our_error(seed, tmp_path):
    """Random bytes changed in a good file: it loads, or the error is ours."""
    rng = np.random.default_rng(seed)
    good = pickle.dumps({"yolo_head.pred_cls.0.weight": np.ones((2, 3)), "x": (1, "a", {2.5, None})}, 2)
    path = Path(tmp_path / "x.pdparams")
    for _ in range(150):
        data = bytearray(good)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            models.load_pretrained("ppyoloe-s", path, num_classes=1)
