"""ResNet-vd: residual stages behind a stem of three 3x3 convolutions; shortcuts that halve a picture average it first.

Source: ResNet, arXiv 1512.03385; the three changes that make it "d", Bag of Tricks, arXiv 1812.01187, section 4.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgeyolo.nn.conv import ConvBnAct
from edgeyolo.nn.deform import DeformConvBnAct

_EXPANSION = 4  # of a bottleneck


class Shortcut(nn.Module):
    """The input in the shape of the output: averaged over 2x2 where it is halved, then a 1x1 convolution."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()
        self.conv = ConvBnAct(in_chs, out_chs, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        out: Tensor = self.conv(self.pool(x))
        return out


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of three with 1x1 around a 3x3; the input, or its shortcut, is added.

    Args:
        shortcut: whether the input takes a convolution to the sum, as in the first block of a stage.
        bottleneck: whether there are three.
        deformable: whether the 3x3 of a bottleneck is.
    """

    def __init__(
        self, in_chs: int, chs: int, stride: int, *, shortcut: bool, bottleneck: bool, deformable: bool = False
    ) -> None:
        super().__init__()
        middle = DeformConvBnAct if deformable else ConvBnAct
        out_chs = chs * _EXPANSION if bottleneck else chs
        self.shortcut = Shortcut(in_chs, out_chs, stride) if shortcut else nn.Identity()
        if bottleneck:
            self.convs = nn.Sequential(
                ConvBnAct(in_chs, chs, activation="relu"),
                middle(chs, chs, 3, stride, activation="relu"),
                ConvBnAct(chs, out_chs, activation=None),
            )
        else:
            self.convs = nn.Sequential(
                ConvBnAct(in_chs, chs, 3, stride, activation="relu"), ConvBnAct(chs, chs, 3, activation=None)
            )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_chs, H/s, W/s)."""
        out: Tensor = self.act(self.convs(x) + self.shortcut(x))
        return out


class ResNetVd(nn.Module):
    """The stem, then one stage per number of blocks, the first of stride 4.

    Args:
        stem_chs: of the three convolutions of the stem.
        stage_chs: of each stage, inside its bottlenecks.
        levels: how many of the last stages to give.
        deformable: whether 3x3 convolutions of the last stage are.

    Attributes:
        out_chs: of the levels, finest first.
    """

    def __init__(
        self,
        stem_chs: tuple[int, int, int],
        stage_chs: tuple[int, ...],
        stage_blocks: tuple[int, ...],
        *,
        bottleneck: bool,
        levels: int,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        first, second, third = stem_chs
        self.stem = nn.Sequential(
            ConvBnAct(3, first, 3, 2, activation="relu"),
            ConvBnAct(first, second, 3, activation="relu"),
            ConvBnAct(second, third, 3, activation="relu"),
            nn.MaxPool2d(3, 2, 1),
        )
        expansion, in_chs, self.levels = (_EXPANSION if bottleneck else 1), third, levels
        self.stages = nn.ModuleList()
        for number, (chs, count) in enumerate(zip(stage_chs, stage_blocks, strict=True)):
            blocks, moves = [], deformable and number == len(stage_chs) - 1
            for i in range(count):
                stride = 2 if i == 0 and number else 1
                blocks.append(
                    ResidualBlock(in_chs, chs, stride, shortcut=i == 0, bottleneck=bottleneck, deformable=moves)
                )
                in_chs = chs * expansion
            self.stages.append(nn.Sequential(*blocks))
        self.out_chs = [chs * expansion for chs in stage_chs[-levels:]]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> features, finest first."""
        x, features = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[-self.levels :]
