"""A detector from a darknet cfg: a model of the registry where one has these layers, else a network of its own."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from edgeyolo.criteria.criterion import Criterion
from edgeyolo.criteria.darknet import DarknetCriterion, DarknetRules
from edgeyolo.criteria.neighbours import NeighbourCriterion
from edgeyolo.criteria.region import RegionCriterion
from edgeyolo.heads import Anchors
from edgeyolo.models._planned import PlannedConfig, PlannedNetwork, names_of
from edgeyolo.nn.plan import Conv, Grow, Layer, LayerError, Plan, find_outputs
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.darknet import name_values
from edgeyolo.weights.darknet_cfg import DarknetCfg
from edgeyolo.weights.pretrained import Published

_TRAINED_ALIKE = 3, 4, 5  # levels that the loss of neighbours is balanced for


@dataclass(frozen=True)
class CfgConfig:
    """A network that no family has.

    Attributes:
        structure: the text of its cfg.
        layers: what that describes.
    """

    name: str
    structure: str
    layers: tuple[Layer, ...]
    num_classes: int
    activation: str
    image_size: int
    anchors_wh: Anchors
    eps: float = 1e-5
    momentum: float = 0.1

    def make_plan(self) -> Plan:
        """All layers; those before the first up-sampling and the first output are the backbone."""
        ends = [output.conv for output in find_outputs(self.layers)]
        ends += [index for index, layer in enumerate(self.layers) if isinstance(layer, Grow)]
        return Plan(layers=list(self.layers), backbone=min(ends))


class CfgNetwork(PlannedNetwork):
    """(B, 3, H, W) -> (B, anchors x (5 + K), H/s, W/s) per level, finest first."""

    config: CfgConfig

    def make_criterion(self, *, epochs: int | None = None) -> Criterion:
        """That of the family whose head it has."""
        if self.decode.classes == "softmax":
            return RegionCriterion(self.decode, self.config.num_classes)
        counts = {len(level) for level in self.decode.anchors_wh}
        if self.decode.size == "square" and len(counts) == 1 and len(self.strides) in _TRAINED_ALIKE:
            return NeighbourCriterion(self.decode, self.config.num_classes)
        return DarknetCriterion(self.decode, self.config.num_classes, DarknetRules(box=0.07))


def network_of(cfg: DarknetCfg, structure: str, name: str) -> CfgNetwork:
    """With random weights.

    Raises:
        CheckpointError: it has no outputs that are built here.
    """
    try:
        outputs = find_outputs(cfg.layers)
    except LayerError as error:
        raise _refuse(error, name) from None
    kinds = Counter(layer.activation for layer in cfg.layers if isinstance(layer, Conv) and layer.activation)
    config = CfgConfig(
        name=name,
        structure=structure,
        layers=cfg.layers,
        num_classes=outputs[0].detect.classes,
        activation=kinds.most_common(1)[0][0] if kinds else "relu",
        image_size=max(cfg.image_hw),
        anchors_wh=tuple(output.detect.anchors_wh for output in outputs),
    )
    try:
        return CfgNetwork(config)
    except LayerError as error:
        raise _refuse(error, name) from None


def _refuse(error: LayerError, name: str) -> CheckpointError:
    return CheckpointError(f"layer {error.index} {error}", where=name, hint="It is no detector of darknet's")


def is_same(config: PlannedConfig, own: CfgConfig) -> bool:
    """Whether a model of the registry has these layers, for these classes and anchors."""
    if [len(level) for level in config.anchors_wh] != [len(level) for level in own.anchors_wh]:
        return False
    changes = {"num_classes": own.num_classes, "anchors_wh": own.anchors_wh}
    like: PlannedConfig = dataclasses.replace(cast(Any, config), **changes)
    return tuple(like.make_plan().layers) == own.layers


def _spread(config: CfgConfig, tensors: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    return name_values(config.layers, tensors, where)


OWN = Published(
    source="a cfg of darknet's",
    licence="NOASSERTION",
    variants=(),
    outputs="outputs.",
    count_classes=lambda config, _tensors: config.num_classes,
    names=names_of,
    spread=_spread,
)
