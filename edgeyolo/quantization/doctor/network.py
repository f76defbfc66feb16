"""Faults that the network shows: what it computes on these pictures against what it saw in training, and on others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeyolo.quantization.calibrate.histogram import Histogram
from edgeyolo.quantization.calibrate.scales import Scales, integer_limit
from edgeyolo.quantization.placement.groups import Placement
from edgeyolo.spec.calibration_finding import CalibrationFinding
from edgeyolo.spec.model import InputSpec

LEAST_LOOKED_AT = 8  # pictures of either kind; of fewer nothing can be said
MOST_UNLIKE, FAR_TOO_UNLIKE = 1.3, 2.6  # standard deviations
MOST_BETTER_SWAPPED = 1.25  # how much nearer to the training the other order of colours may be
MOST_OFF_SWAPPED = 0.4  # standard deviations that it may then be away at most
MOST_OFF_RANGE = 50.0  # times more, or less, than in the training
MOST_SATURATED = 0.02  # of the values of a group

MOST_DEAD = 0.25  # of the channels of a tensor, where the network's own
_LARGE = 1 << 16  # values, of which a quarter is enough to say how many lie beyond a range
_DEAD = 1e-12  # of a tensor's mean square


@dataclass(frozen=True)
class Features:
    """What the tensors that int8 layers read hold of some pictures.

    Attributes:
        means, squares: tensor -> (B, C) mean and mean square of each channel of each picture.
        histograms: tensor -> magnitudes of its values, of large tensors every fourth one's.
    """

    means: dict[str, Tensor]
    squares: dict[str, Tensor]
    histograms: dict[str, Histogram]


def collect_features(
    deploy: fx.GraphModule, placement: Placement, batches: Iterable[Tensor], *, counts: bool = False
) -> Features:
    """Of network inputs (B, 3, H, W), one batch after the other.

    Args:
        counts: fill the histograms too.
    """
    watcher = _Watcher(deploy, placement, counts=counts)
    with torch.no_grad():
        for batch in batches:
            watcher.run(batch)
    joined = [{name: torch.cat(parts) for name, parts in kept.items()} for kept in (watcher.means, watcher.squares)]
    return Features(joined[0], joined[1], watcher.histograms)


class _Watcher(fx.Interpreter):
    def __init__(self, deploy: fx.GraphModule, placement: Placement, *, counts: bool) -> None:
        super().__init__(deploy)
        self._counts = counts
        names = placement.group_of_tensor()
        self.means: dict[str, list[Tensor]] = {name: [] for name in names}
        self.squares: dict[str, list[Tensor]] = {name: [] for name in names}
        self.histograms = {name: Histogram(256) for name in names}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and note what it gives."""
        value = super().run_node(n)
        if n.name in self.means:
            by_channel = value.flatten(2) if value.dim() > 2 else value[..., None]
            self.means[n.name].append(by_channel.mean(-1))
            self.squares[n.name].append(by_channel.square().mean(-1))
            if self._counts:
                values = value.flatten()[:: 4 if value.numel() > _LARGE else 1].abs()
                self.histograms[n.name].add(values, float(values.amax()))
        return value


def find_unlike(ours: Features, theirs: Features) -> list[CalibrationFinding]:
    """Calibration pictures that make the network compute something else than held-out ones do."""
    distances = [_distance(_signature(ours, name), _signature(theirs, name)) for name in ours.means]
    distance = float(torch.tensor(distances).median()) if distances else 0.0
    if distance <= MOST_UNLIKE:
        return []
    return [
        CalibrationFinding(
            fault="unlike-validation",
            verdict="refused" if distance > FAR_TOO_UNLIKE else "warned",
            value=round(distance, 3),
            limit=MOST_UNLIKE,
            what=f"activations are {distance:.1f} standard deviations from those on held-out pictures",
            hint="Calibrate on pictures of the place, camera and light that the model is for",
        )
    ]


def find_dead_channels(ours: Features, theirs: Features | None) -> list[CalibrationFinding]:
    """Channels inside the network that never change on the calibration pictures.

    Those that never change at all are the network's own, and most have some; only a tensor with many is worth a word.
    """
    dead = {name: _dead(ours, name) for name in ours.means}
    count = sum(int(channels.sum()) for channels in dead.values())
    alive = 0 if theirs is None else sum(int((dead[name] & ~_dead(theirs, name)).sum()) for name in dead)
    worst = max(dead, key=lambda name: float(dead[name].double().mean()), default="")
    if not count or (not alive and float(dead[worst].double().mean()) <= MOST_DEAD):
        return []
    why = (
        f"{alive} of them do on the pictures that scores are taken on"
        if alive
        else "nor on others: they are the network's"
    )
    return [
        CalibrationFinding(
            fault="dead-channel",
            verdict="warned",
            value=count,
            limit=0,
            what=f"{count} channels never change ({int(dead[worst].sum())} of them in '{worst}'), {why}",
            hint="Add pictures on which they do"
            if alive
            else "Train again, or prune them: they cost time and tell nothing",
        )
    ]


def find_unlike_training(
    model: nn.Module, batches: Sequence[Tensor], input_spec: InputSpec
) -> list[CalibrationFinding]:
    """Another order of colours, or another range of values, than the network was trained with.

    The first batch norm keeps mean and variance of what it saw in training. Nothing is found where there is none, or it
    has not been trained.
    """
    norm = _first_norm(model, batches[0][:1])
    if norm is None:
        return []
    given, swapped = (
        [_statistics(model, norm, _exchange(batch, input_spec) if turn else batch) for batch in batches]
        for turn in (0, 1)
    )
    (distance, factor), (turned, _) = _off(norm, given), _off(norm, swapped)
    if max(factor, 1 / factor) > MOST_OFF_RANGE:
        return [
            CalibrationFinding(
                fault="value-range",
                verdict="refused",
                value=round(factor, 4),
                limit=MOST_OFF_RANGE,
                what=f"values are spread {factor:.3g} times as far as in training: 0-255 for 0-1, or the reverse",
                hint="Correct mean and std of the model's input, or what is given for pictures",
            )
        ]
    better = distance / turned
    if better <= MOST_BETTER_SWAPPED or turned > MOST_OFF_SWAPPED:
        return []
    return [
        CalibrationFinding(
            fault="colour-order",
            verdict="refused",
            value=round(better, 3),
            limit=MOST_BETTER_SWAPPED,
            what=f"with red and blue exchanged, the pictures are {better:.1f} times nearer to what training saw",
            hint="Correct the order: pictures are BGR, as cv2.imread gives them; the model's input says its own",
        )
    ]


def _exchange(batch: Tensor, input_spec: InputSpec) -> Tensor:
    """The same pictures with red and blue exchanged before they were normalised."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (input_spec.mean, input_spec.std))
    return ((batch * std + mean).flip(1) - mean) / std


def find_saturated(features: Features, placement: Placement, scales: Scales) -> list[CalibrationFinding]:
    """Groups of whose values too many are beyond the range that was chosen, on held-out pictures."""
    shares = {
        name: _saturation(features, group.tensors, scales.groups[name]) for name, group in placement.groups.items()
    }
    if not shares:
        return []
    worst, most = max(shares, key=shares.__getitem__), f"{MOST_SATURATED:.0%}"
    beyond = sum(share > MOST_SATURATED for share in shares.values())
    if not beyond:
        return []
    return [
        CalibrationFinding(
            fault="saturation",
            verdict="warned",
            value=round(shares[worst], 5),
            limit=MOST_SATURATED,
            what=f"{beyond} of {len(shares)} groups clip over {most} of their values, {worst} {shares[worst]:.1%}",
            hint="Calibrate on more, and more different, pictures, or take the recipe int8-mse or int8-max",
        )
    ]


def _signature(features: Features, name: str) -> Tensor:
    """(B, 2 C): mean and root mean square of each channel."""
    return torch.cat([features.means[name], features.squares[name].sqrt()], dim=1)


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Of means of channels, in standard deviations from picture to picture: root mean square over channels."""
    spread = ((ours.var(0) + theirs.var(0)) / 2).sqrt() + 1e-6 * ours.abs().amax() + 1e-12
    return float(((ours.mean(0) - theirs.mean(0)) / spread).square().mean().sqrt())


def _dead(features: Features, name: str) -> Tensor:
    """(C,) whether a channel holds one value everywhere in all pictures."""
    squares, means = features.squares[name].double().mean(0), features.means[name].double().mean(0)
    return squares - means.square() <= _DEAD * squares.mean() + 1e-30


def _saturation(features: Features, tensors: Sequence[str], scale: float) -> float:
    """Part of the values of a group that lie beyond what its largest integer stands for."""
    limit, beyond, total = scale * integer_limit(8), 0, 0
    for name in tensors:
        histogram = features.histograms[name]
        total += int(histogram.counts.sum())
        if histogram.range > 0:
            first = math.ceil(limit / histogram.range * len(histogram.counts))
            beyond += int(histogram.counts[first:].sum())
    return beyond / max(total, 1)


def _first_norm(model: nn.Module, batch: Tensor) -> nn.BatchNorm2d | None:
    """The batch norm that is run first, if it has been trained."""
    seen: list[nn.BatchNorm2d] = []

    def note(norm: nn.Module, _: object) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        seen.append(norm)
        raise _SeenError

    _run_watched(model, [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)], note, batch)
    trained = [norm for norm in seen if norm.num_batches_tracked is not None and int(norm.num_batches_tracked) > 0]
    return trained[0] if trained and trained[0].running_mean is not None else None


class _SeenError(Exception):
    """What was wanted has been seen; the rest of the network need not run."""


def _run_watched(model: nn.Module, norms: Sequence[nn.Module], note: Any, batch: Tensor) -> None:
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        with torch.no_grad():
            model(batch)
    except _SeenError:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def _statistics(model: nn.Module, norm: nn.BatchNorm2d, batch: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) mean and mean square of what a batch norm reads."""
    kept: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append((inputs[0].mean((0, 2, 3)), inputs[0].square().mean((0, 2, 3))))
        raise _SeenError

    _run_watched(model, [norm], note, batch)
    return kept[0]


def _off(norm: nn.BatchNorm2d, statistics: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """How far means are from those in training, in its standard deviations, and how much wider values are spread."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean, square = (torch.stack(parts).mean(0) for parts in zip(*statistics, strict=True))
    spread = (norm.running_var + norm.eps).sqrt()
    distance = float(((mean - norm.running_mean) / spread).square().mean().sqrt())
    variances = (square - mean.square()).clamp(min=0) + 1e-12
    return distance, float((variances / (norm.running_var + 1e-12)).sqrt().median())
