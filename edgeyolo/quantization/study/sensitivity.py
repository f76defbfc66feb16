"""How much each scale group costs: floated alone out of the int8 model, and int8 alone in the float model.

By a cheap proxy, the distance of head maps on a few pictures (`signal.map_distance`), for all groups; by mAP where it
is asked for. The result says how well the proxy's order agrees with that of mAP.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from edgeyolo.quantization.calibrate.ranges import Picture, check_batch
from edgeyolo.quantization.quantize import Quantized
from edgeyolo.quantization.quantizers import set_group_enabled
from edgeyolo.quantization.study.float_groups import uncorrected_biases
from edgeyolo.quantization.study.signal_left import head_maps, map_distance
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.errors import FormatError, QuantizationError
from edgeyolo.spec.model import Decode
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.strict import encode_json, load_json

logger = logging.getLogger(__name__)

_BATCH = 4


class SensitivityRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scale group, measured from both ends.

    Attributes:
        layers: module paths of the layers that read it.
        sqnr_db_float, kl_float, map_float: with this group float and all others int8: the higher SQNR and mAP are and
            the lower KL, the more this group costs.
        sqnr_db_alone, kl_alone, map_alone: with this group int8 and all others float: the other way round.

    SQNR and KL are of head maps, as in `map_distance`; mAP is in percent, None where it was not measured.
    """

    group: str
    layers: tuple[str, ...]
    sqnr_db_float: float
    kl_float: float
    sqnr_db_alone: float
    kl_alone: float
    map_float: float | None = None
    map_alone: float | None = None


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How well a proxy orders the groups as mAP does.

    Attributes:
        proxy: a field of `SensitivityRow`.
        measure: the field with the mAP that it is compared with.
        groups: how many were compared.
        spearman: rho, in [-1, 1], 1 if both name the same groups as the most costly; None if not defined.
    """

    proxy: str
    measure: str
    groups: int
    spearman: float | None


class Sensitivity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `measure_sensitivity` found.

    Attributes:
        rows: by `kl_alone`, the most costly group first.
        sqnr_db, kl: of the fully quantized model's head maps.
        map_int8: mAP of the fully quantized model, percent; None where mAP was not measured.
        pictures: how many the proxy saw.
        agreement: of each proxy with mAP, over the groups that have one; empty where none has.
    """

    rows: tuple[SensitivityRow, ...]
    sqnr_db: float
    kl: float
    map_int8: float | None
    pictures: int
    agreement: tuple[Agreement, ...]

    def ranking(self) -> tuple[str, ...]:
        """Groups, the most costly first, as `meet_budget` takes them."""
        return tuple(row.group for row in self.rows)


@dataclass(frozen=True)
class MapMeasure:
    """How to measure mAP of a module, and where to keep what was measured.

    Attributes:
        measure: a module like `Quantized.fake_quant` -> mAP in percent.
        most: how many groups to measure, those that the proxy finds most costly first; None for all.
        cache: file that is written after each measurement, so that an interrupted run goes on; None for none.
        data: what `measure` measures on; a cache of other data, or of another model, is not used.
    """

    measure: Callable[[nn.Module], float]
    most: int | None = None
    cache: Path | None = None
    data: str = ""


def measure_sensitivity(
    quantized: Quantized,
    pictures: Iterable[Picture],
    *,
    decode: Decode | None = None,
    by_map: MapMeasure | None = None,
    progress: Progress = SILENT,
) -> Sensitivity:
    """Measure every scale group, from both ends.

    Quantizers are switched off and on in one copy of the model, so a group costs two forward passes over `pictures`,
    and two calls of `measure`. Float is the same model with every group switched off.

    Args:
        pictures: a few network inputs (B, 3, H, W) float32, which are held in memory.
        decode: of the model, so that KL is of the scores that the runtime ranks by.
        by_map: also measure mAP; None for the proxy alone.
        progress: told after each group.

    Raises:
        QuantizationError: no pictures, or one of a wrong shape. OutputError: the cache cannot be written.
    """
    switches = _Switches(quantized)
    batches = _batches(pictures)
    switches.set_all(False)
    float_maps = head_maps(switches.module, batches)

    def distance() -> tuple[float, float]:
        return map_distance(float_maps, head_maps(switches.module, batches), decode)

    rows = []
    for done, (name, group) in enumerate(quantized.placement.groups.items(), 1):
        switches.set_only(name, True)
        alone = distance()
        switches.set_only(name, False)
        without = distance()
        rows.append(SensitivityRow(name, group.layers, *without, *alone))
        progress.step("sensitivity", done, len(quantized.placement.groups), f"{name}: KL {alone[1]:.3g} alone")
    switches.set_all(True)
    sqnr_db, kl = distance()
    rows.sort(key=lambda row: row.kl_alone, reverse=True)
    map_int8 = None
    if by_map is not None:
        map_int8, rows = _measure_map(switches, rows, by_map, _fingerprint(quantized, by_map.data), progress)
    count = sum(len(batch) for batch in batches)
    return Sensitivity(tuple(rows), sqnr_db, kl, map_int8, count, _agreement(rows))


class _Switches:
    """A copy of a fake-quantized model whose groups are switched float and back, all on at first."""

    def __init__(self, quantized: Quantized) -> None:
        self.module = copy.deepcopy(quantized.fake_quant).eval()
        self._placement = quantized.placement
        self._plain = uncorrected_biases(quantized, quantized.placement.int8_layers())
        self._corrected = {path: tuple(self._bias(path).tolist()) for path in self._plain}

    def set(self, group: str, enabled: bool) -> None:
        set_group_enabled(self.module, self._placement, group, enabled)
        biases = self._corrected if enabled else self._plain
        for path in self._placement.groups[group].layers:
            if path in biases:
                bias = self._bias(path)
                bias.copy_(torch.tensor(biases[path], dtype=bias.dtype))

    def set_all(self, enabled: bool) -> None:
        for group in self._placement.groups:
            self.set(group, enabled)

    def set_only(self, group: str, enabled: bool) -> None:
        """This group `enabled`, and no other."""
        self.set_all(not enabled)
        self.set(group, enabled)

    def _bias(self, path: str) -> Tensor:
        return self.module.get_parameter(f"{path}.bias").detach()


def _batches(pictures: Iterable[Picture]) -> list[Tensor]:
    found = [check_batch(picture) for picture in pictures]
    if not found:
        raise QuantizationError("no pictures to measure sensitivity on", hint="Give at least one")
    return list(torch.split(torch.cat(found), _BATCH))


def _agreement(rows: Sequence[SensitivityRow]) -> tuple[Agreement, ...]:
    """Each proxy beside the mAP of the same state of the model; KL is negated, so that more is better on both sides."""
    found = []
    for end in ("float", "alone"):
        measured = [row for row in rows if getattr(row, f"map_{end}") is not None]
        maps = [float(getattr(row, f"map_{end}")) for row in measured]
        for proxy, sign in ((f"sqnr_db_{end}", 1.0), (f"kl_{end}", -1.0)):
            values = [sign * float(getattr(row, proxy)) for row in measured]
            found.append(Agreement(proxy, f"map_{end}", len(maps), spearman(values, maps)))
    return tuple(row for row in found if row.groups)


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Whether two measures put things in the same order; None for fewer than two things, or where all are equal."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


class _MapFile(msgspec.Struct, forbid_unknown_fields=True):
    """The file of `MapMeasure.cache`: mAP in percent of "int8", "g3 float", "g3 alone" ..."""

    fingerprint: str
    ap: dict[str, float]


class _Measured:
    """What `MapMeasure` has measured so far, here or in an earlier run."""

    def __init__(self, by_map: MapMeasure, fingerprint: str) -> None:
        self._by_map = by_map
        self._file = _load_earlier(by_map.cache, fingerprint)

    def ap(self, state: str, module: nn.Module) -> float:
        """mAP of `module`, which is in this state; measured unless known."""
        if state not in self._file.ap:
            self._file.ap[state] = self._by_map.measure(module)
            if self._by_map.cache is not None:
                write_file(self._by_map.cache, encode_json(self._file))
        return self._file.ap[state]


def _measure_map(
    switches: _Switches, rows: Sequence[SensitivityRow], by_map: MapMeasure, fingerprint: str, progress: Progress
) -> tuple[float, list[SensitivityRow]]:
    """mAP of the int8 model, and the rows with mAP where it is asked for."""
    measured = _Measured(by_map, fingerprint)
    count = len(rows) if by_map.most is None else min(by_map.most, len(rows))
    switches.set_all(True)
    map_int8 = measured.ap("int8", switches.module)
    found = []
    for done, row in enumerate(rows[:count], 1):
        switches.set_only(row.group, False)
        map_float = measured.ap(f"{row.group} float", switches.module)
        switches.set_only(row.group, True)
        map_alone = measured.ap(f"{row.group} alone", switches.module)
        found.append(msgspec.structs.replace(row, map_float=map_float, map_alone=map_alone))
        progress.step("sensitivity by mAP", done, count, f"{row.group}: {map_float:.2f} float, {map_alone:.2f} alone")
    return map_int8, [*found, *rows[count:]]


def _load_earlier(path: Path | None, fingerprint: str) -> _MapFile:
    if path is not None and path.is_file():
        try:
            found = load_json(path, _MapFile)
        except FormatError as error:
            logger.warning("measurements of an earlier run are not used: %s", error)
        else:
            if found.fingerprint == fingerprint:
                return found
            logger.info("%s: is of another model or other data, and is measured anew", path)
    return _MapFile(fingerprint, {})


def _fingerprint(quantized: Quantized, data: str) -> str:
    """sha256 of all that mAP depends on: weights, scales, placement and the data measured on."""
    digest = hashlib.sha256(repr((data, quantized.placement, quantized.scales)).encode())
    for name, value in quantized.fake_quant.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
