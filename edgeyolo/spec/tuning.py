"""How an artefact may be run on a device, and what was found when the ways were tried."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edgeyolo.spec.model import Latency, Score
from edgeyolo.spec.target import Option


@dataclass(frozen=True)
class Setup:
    """A way to run an artefact.

    Attributes:
        options: engine options, all of them.
        threads: 0 for the engine's own number.
        float_layers: int8 layers that are run in float.
    """

    options: dict[str, Option]
    threads: int = 0
    float_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """One change of a setup, to be tried.

    Attributes:
        text: in words.
        options: options that it sets.
        threads: the number that it sets, None to leave it.
        float_layers: int8 layers that it turns to float, beside those that are already.
    """

    text: str
    options: tuple[tuple[str, Option], ...] = ()
    threads: int | None = None
    float_layers: tuple[str, ...] = ()

    def change(self, setup: Setup) -> Setup:
        """`setup` with the change."""
        layers = tuple(dict.fromkeys((*setup.float_layers, *self.float_layers)))
        threads = setup.threads if self.threads is None else self.threads
        return Setup(setup.options | dict(self.options), threads, layers)


class TuningRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way to run the artefact that was tried, against the best one so far, in turns.

    Attributes:
        change: in words, such as "use_bf16_storage = true" or "3 layers in float: conv_0 ... conv_2".
        ratio: median of time / time of the best so far.
        ratio_low, ratio_high: confidence interval of that median; those of all rows hold together with 95 %.
        rounds: how often both were timed.
        map_difference: largest rms / std over the raw maps, against the artefact as it was deployed.
        kept: whether it became the best.
        why: in words, where it is not kept although it is faster.
    """

    change: str
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    map_difference: float
    kept: bool
    why: str = ""


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `edgeyolo bench --tune` found on one device.

    Attributes:
        device: processor it ran on.
        engine_version: of the package that ran it.
        rows: all that was tried, in order.
        default_options, default_threads: of the artefact as it was deployed.
        default_scores, default_latency: what was measured of it as it was deployed; empty where nothing was faster, for
            then they are still those of the manifest.
        default_ms, tuned_ms: median milliseconds of the network alone, as deployed and as chosen, timed in turns.
        ratio, ratio_low, ratio_high: of the two, with its 95 % interval; 1 where nothing was faster.
        default_ap, tuned_ap: percent, None where no data were given.
    """

    device: str
    engine_version: str
    created: str
    rows: tuple[TuningRow, ...]
    default_options: dict[str, Option]
    default_threads: int
    default_scores: tuple[Score, ...] = ()
    default_latency: tuple[Latency, ...] = ()
    default_ms: float
    tuned_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    default_ap: float | None = None
    tuned_ap: float | None = None
