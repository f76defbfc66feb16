"""darknet by hand: cfg files written line by line, random `.weights`, and an interpreter of both, layer by layer.

Nothing of ours is used: the text is read with `split`, values are taken from the file in their order, and every kind of
layer is a few lines of numpy or of `torch.nn.functional`.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Section = tuple[str, dict[str, str]]
ACTIVATIONS = {
    "linear": lambda x: x,
    "leaky": lambda x: torch.where(x > 0, x, x * 0.1),
    "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "logistic": lambda x: 1 / (1 + torch.exp(-x)),
    "swish": lambda x: x / (1 + torch.exp(-x)),
    "relu": lambda x: x.clamp(min=0),
}
TINY_ANCHORS = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"


def conv(filters: int, size: int, *, stride: int = 1, act: str = "leaky") -> str:
    first = f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\n"
    return f"{first}stride={stride}\npad=1\nactivation={act}\n"


def output(mask: str, classes: int, more: str = "", *, anchors: str = TINY_ANCHORS, act: str = "linear") -> str:
    filters = len(mask.split(",")) * (5 + classes)
    return (
        f"[convolutional]\nsize=1\nstride=1\npad=1\nfilters={filters}  # 3 x (5 + classes)\nactivation={act}\n"
        f"[yolo]\nmask = {mask}\nanchors = {anchors}\nclasses={classes}\nnum={len(anchors.split(',')) // 2}\n"
        f"jitter=.3\nignore_thresh = .7\n{more}\n"
    )


def net(side: int) -> str:
    return f"# Training\n[net]\nbatch=64\nwidth={side}\nheight={side}\nchannels=3\nlearning_rate=0.001\n"


def route(*layers: int, more: str = "") -> str:
    return f"[route]\nlayers = {','.join(map(str, layers))}\n{more}"


def v3_tiny(classes: int, side: int = 64) -> str:
    text = net(side)
    for filters in (16, 32, 64, 128, 256):
        text += conv(filters, 3) + "[maxpool]\nsize=2\nstride=2\n"
    text += conv(512, 3) + "[maxpool]\nsize=2\nstride=1\n" + conv(1024, 3) + conv(256, 1) + conv(512, 3)
    text += output("3,4,5", classes) + route(-4) + conv(128, 1) + "[upsample]\nstride=2\n" + route(-1, 8)
    return text + conv(256, 3) + output("0,1,2", classes)


def v4_tiny(classes: int, side: int = 64, *, anchors: str = TINY_ANCHORS) -> str:
    text = net(side) + conv(32, 3, stride=2) + conv(64, 3, stride=2)
    for filters in (64, 128, 256):
        text += conv(filters, 3) + route(-1, more="groups=2\ngroup_id=1\n") + conv(filters // 2, 3)
        text += conv(filters // 2, 3) + route(-1, -2) + conv(filters, 1) + route(-6, -1)
        text += "[maxpool]\nsize=2\nstride=2\n"
    text += conv(512, 3) + conv(256, 1) + conv(512, 3)
    text += output("3,4,5", classes, "scale_x_y = 1.05", anchors=anchors)
    text += route(-4) + conv(128, 1) + "[upsample]\nstride=2\n" + route(-1, 23) + conv(256, 3)
    return text + output("1,2,3", classes, "scale_x_y = 1.05", anchors=anchors)


def v4_csp(classes: int, side: int = 64, *, share: int = 1) -> str:
    """With fewer channels where `share` says so; new coordinates, whose outputs are logistic."""

    def mish(filters: int, size: int, *, stride: int = 1) -> str:
        return conv(filters // share, size, stride=stride, act="mish")

    add = "[shortcut]\nfrom=-3\nactivation=linear\n"
    text = net(side) + mish(32, 3) + mish(64, 3, stride=2) + mish(32, 1) + mish(64, 3) + add
    for filters, blocks in ((128, 2), (256, 8), (512, 8), (1024, 4)):
        half = filters // 2
        text += mish(filters, 3, stride=2) + mish(half, 1) + route(-2) + mish(half, 1)
        text += (mish(half, 1) + mish(half, 3) + add) * blocks
        text += mish(half, 1) + route(-1, -(3 * blocks + 4)) + mish(filters, 1)
    text += mish(512, 1) + route(-2) + mish(512, 1) + mish(512, 3) + mish(512, 1)
    text += "[maxpool]\nstride=1\nsize=5\n" + route(-2) + "[maxpool]\nstride=1\nsize=9\n" + route(-4)
    text += "[maxpool]\nstride=1\nsize=13\n" + route(-1, -3, -5, -6) + mish(512, 1) + mish(512, 3)
    text += route(-1, -13) + mish(512, 1)
    for filters, lateral in ((256, 79), (128, 48)):
        text += mish(filters, 1) + "[upsample]\nstride=2\n" + route(lateral) + mish(filters, 1) + route(-1, -3)
        text += mish(filters, 1) + mish(filters, 1) + route(-2) + (mish(filters, 1) + mish(filters, 3)) * 2
        text += route(-1, -6) + mish(filters, 1)
    anchors = "12,16, 19,36, 40,28, 36,75, 76,55, 72,146, 142,110, 192,243, 459,401"
    for filters, beside in ((128, None), (256, -20), (512, -49)):
        if beside is not None:
            text += route(-4) + mish(filters, 3, stride=2) + route(-1, beside) + mish(filters, 1) + mish(filters, 1)
            text += route(-2) + (mish(filters, 1) + mish(filters, 3)) * 2 + route(-1, -6) + mish(filters, 1)
        text += mish(2 * filters, 3)
        mask = {128: "0,1,2", 256: "3,4,5", 512: "6,7,8"}[filters]
        more = "scale_x_y = 2.0\nnew_coords=1"
        text += output(mask, classes, more, anchors=anchors, act="logistic")
    return text


def read_sections(text: str) -> list[Section]:
    sections: list[Section] = []
    for line in text.splitlines():
        line = line.split("#")[0].replace(" ", "")
        if line.startswith("["):
            sections.append((line[1:-1], {}))
        elif line:
            name, value = line.split("=")
            sections[-1][1][name] = value
    return sections


def list_channels(sections: list[Section]) -> list[int]:
    """Of the output of each layer."""
    channels: list[int] = []
    for kind, options in sections[1:]:
        index, before = len(channels), channels[-1] if channels else 3
        if kind == "convolutional":
            channels.append(int(options["filters"]))
        elif kind == "route":
            sources = [int(v) + index if int(v) < 0 else int(v) for v in options["layers"].split(",")]
            channels.append(sum(channels[s] for s in sources) // int(options.get("groups", 1)))
        elif kind == "reorg":
            channels.append(before * int(options["stride"]) ** 2)
        else:
            channels.append(before)
    return channels


def write_weights(text: str, path: Path, *, seed: int = 0, version: int = 2) -> np.ndarray:
    """Random values in darknet's order, of a size that keeps activations alive; returns them."""
    rng, sections = np.random.default_rng(seed), read_sections(text)
    channels, parts = list_channels(sections), []
    for index, (kind, options) in enumerate(sections[1:]):
        if kind != "convolutional":
            continue
        filters, size = int(options["filters"]), int(options["size"])
        in_chs = channels[index - 1] if index else 3
        parts.append(rng.normal(0, 0.3, filters))  # biases
        if "batch_normalize" in options:
            parts += [rng.uniform(0.6, 1.4, filters), rng.normal(0, 0.2, filters), rng.uniform(0.5, 1.5, filters)]
        parts.append(rng.normal(0, (1.5 / (in_chs * size**2)) ** 0.5, filters * in_chs * size**2))
    values = np.concatenate(parts).astype("<f4")
    header = struct.pack("<3i", 0, version, 5) + (struct.pack("<Q", 1) if version >= 2 else struct.pack("<i", 1))
    path.write_bytes(header + values.tobytes())
    return values


def run(text: str, values: np.ndarray, images: Tensor) -> list[tuple[Tensor, dict[str, str]]]:
    """The map before every [yolo] and [region], activated as its convolution says, and the options of that section."""
    sections, at = read_sections(text), 0
    outputs: list[Tensor] = []
    found = []

    def take(*shape: int) -> Tensor:
        nonlocal at
        count = int(np.prod(shape))
        at += count
        return torch.from_numpy(values[at - count : at].reshape(shape).copy()).double()

    x = images.double()
    for index, (kind, options) in enumerate(sections[1:]):
        if kind == "convolutional":
            filters, size = int(options["filters"]), int(options["size"])
            bias, norm = take(filters), None
            if "batch_normalize" in options:
                norm = take(filters), take(filters), take(filters)
            weight = take(filters, x.shape[1], size, size)
            x = F.conv2d(x, weight, stride=int(options.get("stride", 1)), padding=size // 2)
            if norm is not None:
                scale, mean, variance = (v[:, None, None] for v in norm)
                x = (x - mean) / torch.sqrt(variance + 1e-5) * scale
            x = ACTIVATIONS[options["activation"]](x + bias[:, None, None])
        elif kind == "maxpool":
            size, stride = int(options["size"]), int(options["stride"])
            before = (size - 1) // 2 if stride == 1 or size % 2 else 0
            padded = F.pad(x, (before, size - 1 - before) * 2, value=-torch.inf)
            windows = padded.unfold(2, size, stride).unfold(3, size, stride)
            x = windows.amax((4, 5))
        elif kind == "route":
            sources = [int(v) + index if int(v) < 0 else int(v) for v in options["layers"].split(",")]
            parts, part = int(options.get("groups", 1)), int(options.get("group_id", 0))
            x = torch.cat([outputs[s].chunk(parts, dim=1)[part] for s in sources], dim=1)
        elif kind == "shortcut":
            x = ACTIVATIONS[options["activation"]](x + outputs[index + int(options["from"])])
        elif kind == "sam":
            x = x * outputs[index + int(options["from"])]
        elif kind == "upsample":
            x = x.repeat_interleave(int(options["stride"]), 2).repeat_interleave(int(options["stride"]), 3)
        elif kind == "reorg":
            x = reorg(x, int(options["stride"]))
        elif kind in ("yolo", "region"):
            found.append((x, options))
        outputs.append(x)
    assert at == len(values)
    return found


def reorg(x: Tensor, stride: int) -> Tensor:
    """Number by number, as the layer is documented: the map is read as one of fewer channels and more positions."""
    batch, chs, height, width = x.shape
    out_chs, flat = chs // stride**2, x.flatten(1)
    moved = torch.empty_like(flat)
    for channel in range(chs):
        offset, source = divmod(channel, out_chs)
        for row in range(height):
            for column in range(width):
                wide_row, wide_column = row * stride + offset // stride, column * stride + offset % stride
                taken = wide_column + width * stride * (wide_row + height * stride * source)
                moved[:, column + width * (row + height * channel)] = flat[:, taken]
    return moved.view(batch, chs * stride**2, height // stride, width // stride)


def boxes(text: str, values: np.ndarray, images: Tensor) -> list[list[float]]:
    """Of one picture, every box of every class: x1, y1, x2, y2 in input pixels, score, class."""
    side = int(read_sections(text)[0][1]["width"])
    rows = []
    for raw, options in run(text, values, images):
        classes, grid = int(options["classes"]), raw.shape[2]
        flat = [float(v) for v in options["anchors"].split(",")]
        mask = [int(v) for v in options["mask"].split(",")]
        is_new, scale = "new_coords" in options, float(options.get("scale_x_y", 1))
        for number, chosen in enumerate(mask):
            t = raw[0, number * (5 + classes) : (number + 1) * (5 + classes)].numpy()
            for row in range(grid):
                for column in range(grid):
                    v = t[:, row, column]
                    s = v if is_new else 1 / (1 + np.exp(-v))  # new coordinates are logistic already
                    x = (s[0] * scale - (scale - 1) / 2 + column) * side / grid
                    y = (s[1] * scale - (scale - 1) / 2 + row) * side / grid
                    grown = (2 * v[2:4]) ** 2 if is_new else np.exp(v[2:4])
                    w, h = grown * flat[2 * chosen : 2 * chosen + 2]
                    box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                    rows += [[*box, s[4] * s[5 + k], k] for k in range(classes)]
    return rows
