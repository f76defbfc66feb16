"""YOLOv7 as its authors write it: numbered layers with "from" indices; written from the published layout.

Saved under the authors' module names, it is what an official file holds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


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
