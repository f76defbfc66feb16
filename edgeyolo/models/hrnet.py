"""HRNet: joints of one person who fills the picture, as heat maps; a fine map is kept through the whole network.

Branches of halved sizes run side by side, and after each module every branch gets the sum of all of them: coarser ones
by a 1x1 convolution and nearest up-sampling, finer ones by 3x3 convolutions of stride 2.
`hrnet-w18-small` is for boards: one module of two blocks a stage. Its branches are 16, 32, 64 and 128 channels wide, as
those of the authors' small classifier of that name.

Source: Deep High-Resolution Representation Learning for Human Pose Estimation, arXiv 1902.09212.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from edgeyolo.criteria.heatmap import HeatmapCriterion
from edgeyolo.models._network import DetectorNetwork
from edgeyolo.nn.activation import make_activation
from edgeyolo.nn.conv import ConvBnAct, start_normal
from edgeyolo.nn.residual import BasicBlock, NarrowBlock
from edgeyolo.spec.model import HeatmapDecode, InputSpec
from edgeyolo.weights.pretrained import Names, Published

_STRIDE = 4
_OUTPUT_STD = 0.001
_MEAN_RGB, _STD_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@dataclass(frozen=True)
class HrnetConfig:
    """One model of the family.

    Attributes:
        branch_chs: of each branch, finest first.
        stem_chs: of the two convolutions that the picture meets first.
        narrow_chs: of the middle of each block of the first stage, which has `narrow_blocks` of them.
        module_count: modules of the second, third and fourth stage.
        block_count: of each branch of a module.
        num_classes: joints.
        image_hw: height and width of the input it is meant for, pixels.
    """

    name: str
    branch_chs: tuple[int, ...]
    stem_chs: int = 64
    narrow_chs: int = 64
    narrow_blocks: int = 4
    module_count: tuple[int, ...] = (1, 4, 3)
    block_count: int = 4
    num_classes: int = 17
    activation: str = "relu"
    image_hw: tuple[int, int] = (256, 192)

    @property
    def image_size(self) -> int:
        """The longer side of its input, pixels."""
        return max(self.image_hw)


VARIANTS: dict[str, HrnetConfig] = {
    config.name: config
    for config in (
        HrnetConfig(
            "hrnet-w18-small",
            (16, 32, 64, 128),
            narrow_chs=32,
            narrow_blocks=1,
            module_count=(1, 1, 1),
            block_count=2,
        ),
        HrnetConfig("hrnet-w32", (32, 64, 128, 256)),
        HrnetConfig("hrnet-w48", (48, 96, 192, 384)),
    )
}


class Fusion(nn.Module):
    """What one branch gets: the sum of all branches, each brought to its size and channels.

    Args:
        to: the branch that gets it, 0 for the finest.
    """

    def __init__(self, chs: Sequence[int], to: int, activation: str) -> None:
        super().__init__()
        self.ways = nn.ModuleList(_make_way(chs, branch, to, activation) for branch in range(len(chs)))
        self.act = make_activation(activation)

    def forward(self, branches: list[Tensor]) -> Tensor:
        """Every branch, finest first -> (B, C, h, w) of this one."""
        total = self.ways[0](branches[0])
        for way, branch in zip(list(self.ways)[1:], branches[1:], strict=True):
            total = total + way(branch)
        out: Tensor = self.act(total)
        return out


def _make_way(chs: Sequence[int], branch: int, to: int, activation: str) -> nn.Module:
    """From a branch to another one."""
    if branch == to:
        return nn.Identity()
    if branch > to:
        upsample = nn.Upsample(scale_factor=float(2 ** (branch - to)), mode="nearest")
        return nn.Sequential(ConvBnAct(chs[branch], chs[to], activation=None), upsample)
    halvings = [ConvBnAct(chs[branch], chs[branch], 3, 2, activation=activation) for _ in range(to - branch - 1)]
    return nn.Sequential(*halvings, ConvBnAct(chs[branch], chs[to], 3, 2, activation=None))


class FusedBranches(nn.Module):
    """Residual blocks on every branch, then sums over all branches.

    Args:
        outputs: how many branches, finest first, are given on.
    """

    def __init__(self, chs: Sequence[int], blocks: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, activation=activation) for _ in range(blocks))) for width in chs
        )
        self.fusions = nn.ModuleList(Fusion(chs, to, activation) for to in range(outputs))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps of every branch, finest first -> the same, mixed."""
        branches = [blocks(x) for blocks, x in zip(self.branches, features, strict=True)]
        return [fusion(branches) for fusion in self.fusions]


class Stage(nn.Module):
    """Modules in a row, of the same branches; the last one gives on `outputs` of them."""

    def __init__(self, chs: Sequence[int], modules: int, blocks: int, outputs: int, activation: str) -> None:
        super().__init__()
        given = [len(chs)] * (modules - 1) + [outputs]
        self.parts = nn.ModuleList(FusedBranches(chs, blocks, count, activation) for count in given)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps of every branch, finest first -> `outputs` of them."""
        for part in self.parts:
            features = part(features)
        return features


class Backbone(nn.Module):
    """All but the last stage: a stem of two halvings, a stage of one branch, then of two and of three."""

    def __init__(self, config: HrnetConfig) -> None:
        super().__init__()
        activation, chs = config.activation, config.branch_chs
        wide = NarrowBlock.widening * config.narrow_chs
        self.stem = nn.Sequential(
            ConvBnAct(3, config.stem_chs, 3, 2, activation=activation),
            ConvBnAct(config.stem_chs, config.stem_chs, 3, 2, activation=activation),
        )
        entries = [config.stem_chs] + [wide] * (config.narrow_blocks - 1)
        self.stage_1 = nn.Sequential(
            *(NarrowBlock(in_chs, config.narrow_chs, activation=activation) for in_chs in entries)
        )
        self.split_1 = ConvBnAct(wide, chs[0], 3, activation=activation)
        self.split_2 = ConvBnAct(wide, chs[1], 3, 2, activation=activation)
        self.stage_2 = Stage(chs[:2], config.module_count[0], config.block_count, 2, activation)
        self.split_3 = ConvBnAct(chs[1], chs[2], 3, 2, activation=activation)
        self.stage_3 = Stage(chs[:3], config.module_count[1], config.block_count, 3, activation)
        self.split_4 = ConvBnAct(chs[2], chs[3], 3, 2, activation=activation)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> four branches of strides 4, 8, 16 and 32."""
        x = self.stage_1(self.stem(images))
        two = self.stage_2([self.split_1(x), self.split_2(x)])
        three = self.stage_3([*two, self.split_3(two[-1])])
        return [*three, self.split_4(three[-1])]


class Network(DetectorNetwork):
    """(B, 3, H, W) -> one heat map for each joint, (B, K, H/4, W/4)."""

    task: ClassVar[str] = "keypoints"
    config: HrnetConfig
    decode: HeatmapDecode
    strides: ClassVar[tuple[int, ...]] = (_STRIDE,)

    def __init__(self, config: HrnetConfig) -> None:
        super().__init__()
        self.config = config
        self.decode = HeatmapDecode(strides=self.strides)
        self.backbone = Backbone(config)
        self.neck = Stage(config.branch_chs, config.module_count[2], config.block_count, 1, config.activation)
        self.heat = nn.Conv2d(config.branch_chs[0], config.num_classes, 1)
        start_normal(self.heat, _OUTPUT_STD)
        if self.heat.bias is not None:
            nn.init.zeros_(self.heat.bias)

    @property
    def side_multiple(self) -> int:
        """The coarsest branch is of stride 32, however fine the heat maps are."""
        return 32

    def make_input_spec(self, image_hw: tuple[int, int]) -> InputSpec:
        """See `DetectorNetwork.make_input_spec`; of the colours of ImageNet, and black around the picture."""
        plain = super().make_input_spec(image_hw)
        return InputSpec(image_hw=plain.image_hw, mean=_MEAN_RGB, std=_STD_RGB, letterbox_value=0)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one map; H and W multiples of 32."""
        finest = self.neck(self.backbone(images))[0]
        return [self.heat(finest)]

    def make_criterion(self, *, epochs: int | None = None) -> HeatmapCriterion:
        """Its loss; the same in every epoch, however many there are."""
        return HeatmapCriterion(_STRIDE)


def _names(config: HrnetConfig, _tensors: Mapping[str, Tensor], _where: object) -> Names:
    modules = _conv("backbone.stem.0", "", "1") | _conv("backbone.stem.1", "", "2")
    for i in range(config.narrow_blocks):
        modules |= _block(f"backbone.stage_1.{i}", f"layer1.{i}", ("entry", "middle", "exit"))
    modules |= _numbered("backbone.stage_1.0.skip", "layer1.0.downsample")
    modules |= _numbered("backbone.split_1", "transition1.0")
    for branch in (1, 2, 3):
        modules |= _numbered(f"backbone.split_{branch + 1}", f"transition{branch}.{branch}.0")
    stages = ("backbone.stage_2", "backbone.stage_3", "neck")
    for number, (here, count) in enumerate(zip(stages, config.module_count, strict=True), start=2):
        for part in range(count):
            outputs = 1 if here == "neck" and part == count - 1 else number
            modules |= _module(f"{here}.parts.{part}", f"stage{number}.{part}", number, outputs, config.block_count)
    return Names(modules=modules | {"heat": "final_layer"})


def _module(here: str, there: str, branches: int, outputs: int, blocks: int) -> dict[str, str]:
    modules: dict[str, str] = {}
    for branch in range(branches):
        for i in range(blocks):
            modules |= _block(f"{here}.branches.{branch}.{i}", f"{there}.branches.{branch}.{i}", ("entry", "exit"))
    for to in range(outputs):
        for branch in range(branches):
            mine, other = f"{here}.fusions.{to}.ways.{branch}", f"{there}.fuse_layers.{to}.{branch}"
            if branch > to:
                modules |= _numbered(f"{mine}.0", other)
            for i in range(to - branch):
                modules |= _numbered(f"{mine}.{i}", f"{other}.{i}")
    return modules


def _block(here: str, there: str, parts: tuple[str, ...]) -> dict[str, str]:
    """A residual block, whose convolutions are counted."""
    modules: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        modules |= _conv(f"{here}.{part}", f"{there}.", str(number))
    return modules


def _conv(here: str, there: str, number: str) -> dict[str, str]:
    return {f"{here}.conv": f"{there}conv{number}", f"{here}.bn": f"{there}bn{number}"}


def _numbered(here: str, there: str) -> dict[str, str]:
    """A convolution and its batch norm that are the first two of a sequence."""
    return {f"{here}.conv": f"{there}.0", f"{here}.bn": f"{there}.1"}


def _count_joints(_config: HrnetConfig, tensors: Mapping[str, Tensor]) -> int | None:
    weight = tensors.get("final_layer.weight")
    return None if weight is None or weight.dim() == 0 else weight.shape[0]


PUBLISHED = Published(
    source="HRNet",
    licence="MIT",
    variants=("hrnet-w32", "hrnet-w48"),
    outputs="heat",
    count_classes=_count_joints,
    names=_names,
)
