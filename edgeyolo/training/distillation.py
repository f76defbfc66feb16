"""Distillation: a float teacher, trained before, shows a student what it sees and what it says.

What it sees are the neck's maps that feed the heads, compared channel by channel: a softmax over the cells of a
channel tells where it looks, and the student's, through a learned 1x1 convolution where it has other channels, is
asked to look there too. That works for any two models of the zoo, level by level where their strides meet.
What it says is compared where both heads say it in the same way: one decode, anchors included, and the same classes.
Where they differ, a prediction of one has no counterpart in the other, and the features alone are taught.

Source: Channel-wise Knowledge Distillation for Dense Prediction, arXiv 2011.13256, section 3.2, equations 4 and 5. Two
stages, a temperature of each channel's own and alignment where channels agree: DAMO-YOLO, arXiv 2211.15444, section
2.5.
Differs: a mean over levels, so that the weight means the same for three levels and for four; weights that fall do so
from epoch to epoch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from edgeyolo.criteria.criterion import Loss, mean_over_processes
from edgeyolo.geometry.network_input import scaling_of
from edgeyolo.models import Companion, DetectorNetwork
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.training import DistillConfig
from edgeyolo.training.head_distillation import HeadLoss, make_head_loss

_VARIANCE_FLOOR = 1e-5  # as batch normalisation has it


def check_distill(config: DistillConfig) -> None:
    """Raise UsageError for a weight or temperature out of its range, and where nothing would be taught."""
    check_settings(config, section="distill.")
    if config.feature == config.head == 0:
        raise UsageError("distill.feature and distill.head are both 0", hint="Leave the teacher out")


class Distiller(Companion):
    """The loss that a teacher adds. Its parameters are the adapters, which train with the student and do not ship.

    Neither network is a part of it: `state_dict`, `parameters` and `to` are about the adapters alone.

    Args:
        student: the bare network, in whatever wrapper it is called.
        teacher: frozen, in eval mode, on its device already.
        image_hw: of the student's input, pixels.
        epochs: that the teacher teaches, from the first on.
        same_classes: whether both know the same classes in the same order.

    Raises:
        UsageError: no stride is common, or the teacher cannot take pictures of this size.
    """

    def __init__(
        self,
        student: DetectorNetwork,
        teacher: DetectorNetwork,
        *,
        settings: DistillConfig,
        image_hw: tuple[int, int],
        epochs: int = 1,
        same_classes: bool = True,
    ) -> None:
        super().__init__()
        check_distill(settings)
        self.settings = settings
        self.epochs = epochs
        self.share = 1.0  # of the weights, in this epoch
        self._unit = student.make_criterion().unit
        self._networks = (student, teacher)  # in a tuple: not submodules
        self._inputs = (student.make_input_spec(image_hw), teacher.make_input_spec(image_hw))
        self._head_loss: HeadLoss | None = None
        if settings.head and same_classes and student.decode == teacher.decode:
            self._head_loss = make_head_loss(student.decode)
        mine, theirs = (_level_shapes(network, image_hw) for network in self._networks)
        common = [shape_hw for shape_hw in mine if shape_hw in theirs]
        if not common:
            raise UsageError("teacher and student have no stride in common", where=teacher.config.name)
        self._levels = [(list(mine).index(shape_hw), list(theirs).index(shape_hw)) for shape_hw in common]
        pairs = [(mine[shape_hw], theirs[shape_hw]) for shape_hw in common]
        self.adapters = nn.ModuleList(_make_adapter(a, b, settings.align) for a, b in pairs)
        self.count = len(self._levels)
        self._features: list[Tensor] = []

    def start_epoch(self, epoch: int) -> None:
        """Weights fall as the settings say, and are 0 once the teacher has left."""
        last = self.settings.final_weight_factor
        fallen = (1 - math.cos(math.pi * epoch / self.epochs)) / 2
        self.share = 1 + (last - 1) * fallen if epoch < self.epochs else 0.0

    def watch(self, network: nn.Module) -> None:
        """See the maps of a network's neck; it keeps a hook."""
        assert isinstance(network, DetectorNetwork)
        self._features, _ = keep_neck_maps(network)

    def forward(self) -> list[Tensor]:
        """The student's features, adapted: one (B, C, h, w) per level that both networks have."""
        adapted = self.adapted(self._features)
        self._features.clear()
        return adapted

    def describe(self) -> str:
        """What is taught, in words."""
        teacher = self._networks[1].config.name
        heads = "its heads" if self._head_loss is not None else "not its heads, which are not of one kind"
        return f"{teacher} teaches {len(self._levels)} levels of features and {heads}"

    def adapted(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The student's neck maps, all of them -> those of the levels taught, float32, with the teacher's channels."""
        pairs = zip(self.adapters, self._levels, strict=True)
        with torch.autocast(features[0].device.type, enabled=False):
            return [adapter(features[mine].float()) for adapter, (mine, _) in pairs]

    def loss(self, seen: Sequence[Tensor], maps: Sequence[Tensor], targets: Tensor, images: Tensor) -> Loss:
        """What the student has to learn of the teacher on one batch; parts `distill_feature`, `distill_score` ...

        There are none once the teacher has left.
        """
        if not self.share:
            return Loss(images.new_zeros(()), {})
        student, teacher = self._networks
        with torch.no_grad(), watch_neck(teacher) as shown:
            said = teacher(renormalise(images, *self._inputs))
        terms: dict[str, Tensor] = {}  # per picture
        with torch.autocast(images.device.type, enabled=False):
            if self.settings.feature:
                terms["feature"] = self.settings.feature * self._feature_terms(seen, shown)
            if self._head_loss is not None:
                count = student.decode.output_count
                heads = self._head_loss([m.float() for m in maps[:count]], [m.float() for m in said[:count]])
                terms |= {name: self.settings.head * term for name, term in heads.items()}
            pictures = mean_over_processes(images.new_tensor(float(len(images))), least=1.0)
            parts = {f"distill_{name}": self.share * self._unit * term.sum() / pictures for name, term in terms.items()}
        total = torch.stack(list(parts.values())).sum() if parts else images.new_zeros(())
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def _feature_terms(self, features: Sequence[Tensor], shown: Sequence[Tensor]) -> Tensor:
        """(B,)."""
        pairs = [(mine, shown[theirs].float()) for mine, (_, theirs) in zip(features, self._levels, strict=True)]
        temperature = self.settings.temperature
        if self.settings.dynamic_temperature:
            pairs, temperature = [(standardised(mine), standardised(theirs)) for mine, theirs in pairs], 1.0
        return torch.stack([channel_divergence(*pair, temperature) for pair in pairs]).mean(0)


def _make_adapter(in_chs: int, out_chs: int, align: bool) -> nn.Module:
    return nn.Conv2d(in_chs, out_chs, 1, bias=False) if align or in_chs != out_chs else nn.Identity()


def standardised(x: Tensor) -> Tensor:
    """(B, C, h, w) -> the same with mean 0 and standard deviation 1 in each channel, over all pictures and cells."""
    centred = x - x.mean((0, 2, 3), keepdim=True)
    return centred * (centred.square().mean((0, 2, 3), keepdim=True) + _VARIANCE_FLOOR).rsqrt()


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far the student's softmax over the cells of a channel is from the teacher's, as a mean over channels.

    Args:
        student, teacher: (B, C, h, w).

    Returns:
        (B,).
    """
    mine, theirs = ((x.flatten(2) / temperature).log_softmax(-1) for x in (student, teacher))
    divergence = F.kl_div(mine, theirs, reduction="none", log_target=True).sum(-1)
    return temperature**2 * divergence.mean(1)


@contextlib.contextmanager
def watch_neck(network: DetectorNetwork) -> Iterator[list[Tensor]]:
    """Inside, the list is filled with the maps that feed the heads, finest first, each time the network runs."""
    maps, handle = keep_neck_maps(network)
    try:
        yield maps
    finally:
        handle.remove()


def keep_neck_maps(network: DetectorNetwork) -> tuple[list[Tensor], RemovableHandle]:
    """As `watch_neck`, until the handle is removed."""
    maps: list[Tensor] = []

    def keep(_neck: nn.Module, _inputs: object, output: Sequence[Any]) -> None:
        maps[:] = output if isinstance(output[0], Tensor) else output[0]  # beside them, maps for auxiliary heads

    return maps, network.neck.register_forward_hook(keep)


def renormalise(images: Tensor, made_for: InputSpec, wanted: InputSpec) -> Tensor:
    """(B, 3, H, W) normalised for one network -> as another wants it."""
    if (made_for.mean, made_for.std) == (wanted.mean, wanted.std):
        return images
    (had_factor, had_offset), (factor, offset) = (
        [torch.from_numpy(values).to(images.device).view(1, 3, 1, 1) for values in scaling_of(spec)]
        for spec in (made_for, wanted)
    )
    return (images + had_offset) / had_factor * factor - offset


def _level_shapes(network: DetectorNetwork, image_hw: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Height and width of each of the neck's maps -> its channels, finest first; the network is left as it was."""
    parameter = next(network.parameters())
    was_training = network.training
    network.eval()
    with torch.no_grad(), watch_neck(network) as maps:
        network(parameter.new_zeros(1, 3, *image_hw))
    network.train(was_training)
    return {(map_.shape[2], map_.shape[3]): map_.shape[1] for map_ in maps}
