"""What a family that is a plan of layers shares: its network, and its files of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from edgeyolo.heads import Anchors
from edgeyolo.models._network import DetectorNetwork, NetworkConfig, start_anchor_bias
from edgeyolo.nn.conv import set_batch_norm
from edgeyolo.nn.implicit import ImplicitConv
from edgeyolo.nn.plan import Conv, Layer, Output, Plan, Reorg, find_outputs, trace_shapes
from edgeyolo.nn.planned import PlannedBody, list_features, seen_through
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.spec.model import AnchorDecode
from edgeyolo.weights.darknet import count_classes, name_values
from edgeyolo.weights.formats.darknet import VALUES
from edgeyolo.weights.pretrained import Names, Published


class PlannedConfig(NetworkConfig, Protocol):
    """A config that its plan is made from; a dataclass."""

    @property
    def anchors_wh(self) -> Anchors:
        """Per level, finest first, in input pixels."""

    @property
    def eps(self) -> float:
        """Of batch norms."""

    @property
    def momentum(self) -> float:
        """Of batch norms, weight of the new batch."""

    def make_plan(self) -> Plan:
        """All layers, as its authors' cfg has them."""


class PlannedNetwork(DetectorNetwork):
    """(B, 3, H, W) -> (B, anchors x (5 + K), H/s, W/s) per level, finest first."""

    config: PlannedConfig
    decode: AnchorDecode

    def __init__(self, config: PlannedConfig) -> None:
        super().__init__()
        self.config = config
        plan = config.make_plan()
        self.layers = tuple(plan.layers)
        found = find_outputs(self.layers)
        self.decode = decode_of(found)
        self.strides = self.decode.strides
        ends = [seen_through(self.layers, output.source) for output in found]
        features = list_features(self.layers, ends, plan.backbone)
        self.backbone = PlannedBody(self.layers, features)
        self.neck = PlannedBody(self.layers, ends, features)
        shapes = trace_shapes(self.layers)
        self.outputs = nn.ModuleList(_make_output(output, shapes[output.source].chs) for output in found)
        set_batch_norm(self, eps=config.eps, momentum=config.momentum)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one map per level; H and W multiples of the coarsest stride."""
        maps = self.neck(self.backbone([images]))
        return [output(x) for output, x in zip(self.outputs, maps, strict=True)]


def decode_of(outputs: Sequence[Output]) -> AnchorDecode:
    """How the maps of a plan become boxes.

    Raises:
        CheckpointError: the heads are of several kinds.
    """
    heads = [output.detect for output in outputs]
    if len({(head.size, head.softmax, head.classes) for head in heads}) > 1:
        raise CheckpointError("has heads of several kinds", hint="Give them the same classes and new_coords")
    reach = tuple(head.reach for head in heads)
    return AnchorDecode(
        strides=tuple(output.stride for output in outputs),
        anchors_wh=tuple(head.anchors_wh for head in heads),
        size=heads[0].size,
        reach=() if set(reach) == {2.0} else reach,
        classes="softmax" if heads[0].softmax else "sigmoid",
    )


def _make_output(output: Output, in_chs: int) -> nn.Module:
    anchors, classes = len(output.detect.anchors_wh), output.detect.classes
    out_chs = anchors * (5 + classes)
    if output.scale is None:
        conv = nn.Conv2d(in_chs, out_chs, 1)
        start_anchor_bias(conv, output.stride, classes)
        return conv
    module = ImplicitConv(in_chs, out_chs)
    start_anchor_bias(module.conv, output.stride, classes)
    return module


def publish(source: str, licence: str, variants: tuple[str, ...]) -> Published:
    """Weights of a family of plans: darknet's `.weights`, or a `.pt` whose names have darknet's numbers."""
    return Published(
        source=source,
        licence=licence,
        variants=variants,
        outputs="outputs.",
        count_classes=_count_classes,
        names=names_of,
        spread=_spread,
    )


def _layers(config: PlannedConfig, classes: int) -> tuple[Layer, ...]:
    assert dataclasses.is_dataclass(config) and not isinstance(config, type)
    return tuple(dataclasses.replace(config, num_classes=classes).make_plan().layers)


def _count_classes(config: PlannedConfig, tensors: Mapping[str, Tensor]) -> int | None:
    return count_classes(_layers(config, 1), _layers(config, 2), tensors)


def _spread(config: PlannedConfig, tensors: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    """For as many classes as the file has, whatever the network's: its outputs are made anew then."""
    classes = _count_classes(config, tensors)
    return name_values(_layers(config, classes or config.num_classes), tensors, where)


def names_of(config: PlannedConfig, tensors: Mapping[str, Tensor], where: object) -> Names:
    """What a file calls the tensors of a plan's network."""
    plan = config.make_plan()
    layers = plan.layers
    is_numbered = VALUES in tensors or "0.conv.weight" in tensors
    conv, norm, vector = ("{}.conv", "{}.bn", "{}.vector") if is_numbered else _PYTORCH
    modules: dict[str, str] = {}
    outputs = {output.conv: output for output in find_outputs(layers)}
    for index, layer in enumerate(layers):
        if isinstance(layer, Conv) and index not in outputs:
            path = f"{'backbone' if index < plan.backbone else 'neck'}.conv_{index}"
            behind_reorg = layer.reads[0] >= 0 and isinstance(layers[layer.reads[0]], Reorg)
            path += ".conv" if behind_reorg and layers[layer.reads[0]].reads == (-1,) else ""
            modules |= {f"{path}.conv": conv.format(index), f"{path}.bn": norm.format(index)}
    for level, (index, output) in enumerate(outputs.items()):
        if output.scale is None:
            modules[f"outputs.{level}"] = conv.format(index)
        else:
            modules[f"outputs.{level}.conv"] = conv.format(index)
            modules[f"outputs.{level}.offset"] = vector.format(output.offset)
            modules[f"outputs.{level}.scale"] = vector.format(output.scale)
    return Names(modules=modules)


_PYTORCH = ("module_list.{}.Conv2d", "module_list.{}.BatchNorm2d", "module_list.{}.implicit")
