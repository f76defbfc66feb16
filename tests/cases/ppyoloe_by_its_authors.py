"""PP-YOLOE as PaddleDetection nests it: what matters of it is names, order and arithmetic."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F


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
