"""What is known of each source at this moment: one thread notes it, any other may ask."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edgeyolo.runtime.clock import Timing, spread_of
from edgeyolo.runtime.conditions import read_conditions
from edgeyolo.runtime.feed import StreamCounts
from edgeyolo.runtime.follow import Follower
from edgeyolo.spec.benchmark import Conditions
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.tracks import Tracks

LOST_S = 5.0  # without a frame
STUCK_S = 30.0  # frames come, and nothing is detected
_WINDOW_S = 5.0  # of the frames per second
_REMEMBERED = 1000  # calls that make the p99
_CONDITIONS_S = 2.0

Phase = Literal["waiting", "live", "lost", "ended"]


@dataclass(frozen=True)
class Seen:
    """The latest result of a source.

    Attributes:
        number: of results so far.
        time_s: when it came, by `time.perf_counter`.
        tracks: of the same frame, where objects are followed.
    """

    number: int
    time_s: float
    image: Image
    detections: Detections
    tracks: Tracks | None = None

    @property
    def found(self) -> Detections | Tracks:
        """What counts: objects that are followed, where they are."""
        return self.detections if self.tracks is None else self.tracks


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One source as the page, metrics and MQTT tell it.

    Attributes:
        fps: detected frames per second, of the latest seconds.
        median_ms, p99_ms: of the detector's call, of the latest thousand.
        counts: class -> objects in the latest frame, 0 where there are none.
        appeared: class -> how often it has appeared (see `RecordOptions.record_absence`).
        zones: see `Follower.counts`.
    """

    name: str
    phase: Phase
    fps: float
    median_ms: float
    p99_ms: float
    captured: int
    detected: int
    dropped: int
    reconnects: int
    image_hw: tuple[int, int] | None
    counts: dict[str, int]
    appeared: dict[str, int]
    objects: list[dict[str, Any]]
    zones: dict[str, Any] | None = None


class SourceState:
    """One source.

    Args:
        classes: that are counted.
        absence_s: after which a class appears anew.
        follower: of its objects, where they are followed.
    """

    def __init__(
        self,
        name: str,
        class_names: tuple[str, ...],
        classes: tuple[str, ...],
        absence_s: float,
        follower: Follower | None = None,
    ) -> None:
        self.name = name
        self.counts = StreamCounts()
        self.has_ended = False
        self.latest: Seen | None = None
        self.appeared: Counter[str] = Counter()
        self.follower = follower
        self._class_names, self._classes, self._absence_s = class_names, classes, absence_s
        self._times: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self._last_seen_s: dict[str, float] = {}
        self.started_s = time.perf_counter()

    def note(self, image: Image, detections: Detections, timing: Timing, tracks: Tracks | None = None) -> set[str]:
        """Take in a result; the classes that appear with it."""
        now_s = time.perf_counter()
        self._times.append((now_s, timing.total_ms))
        seen = Seen(self.latest.number + 1 if self.latest else 1, now_s, image, detections, tracks)
        present = {self._class_names[i] for i in seen.found.class_ids.tolist()}
        new = {name for name in present if now_s - self._last_seen_s.get(name, float("-inf")) > self._absence_s}
        self._last_seen_s.update(dict.fromkeys(present, now_s))
        self.latest = seen
        self.appeared.update(new)
        return new

    def status(self) -> SourceStatus:
        """All of it at this moment."""
        now_s, latest, times = time.perf_counter(), self.latest, list(self._times)
        recent = [at_s for at_s, _ in times if at_s > now_s - _WINDOW_S]
        spread = spread_of([ms for _, ms in times]) if times else None
        found = Counter(self._class_names[i] for i in latest.found.class_ids.tolist()) if latest else Counter()
        is_live = latest is not None and now_s - latest.time_s < LOST_S
        objects = latest.found.as_dicts(self._class_names) if latest and is_live else []
        return SourceStatus(
            name=self.name,
            phase=self._phase(is_live),
            fps=round(_rate(recent), 2),
            median_ms=round(spread.median_ms, 2) if spread else 0.0,
            p99_ms=round(spread.p99_ms, 2) if spread else 0.0,
            captured=self.counts.captured,
            detected=self.counts.detected,
            dropped=self.counts.dropped,
            reconnects=self.counts.reconnects,
            image_hw=(latest.image.shape[0], latest.image.shape[1]) if latest else None,
            counts={name: found[name] if is_live else 0 for name in self._classes},
            appeared={name: self.appeared[name] for name in self._classes},
            objects=objects,
            zones=self.follower.counts if self.follower else None,
        )

    def _phase(self, is_live: bool) -> Phase:
        if self.has_ended:
            return "ended"
        if self.latest is None:
            return "waiting"
        return "live" if is_live else "lost"


class Health:
    """Whether the detector does its work, and the state of the computer.

    Attributes:
        error: with which the detector failed.
    """

    def __init__(self) -> None:
        self.error = ""
        self.conditions = Conditions()
        self._read_s = float("-inf")

    def problem(self, states: list[SourceState]) -> str:
        """What is wrong, so that a restart may help; empty where nothing is."""
        if self.error:
            return self.error
        now_s = time.perf_counter()
        for state in states:
            since_s = now_s - (state.latest.time_s if state.latest else state.started_s)
            if since_s > STUCK_S and state.counts.captured_s > now_s - LOST_S:
                return f"{state.name}: frames come, and none has been detected on for {since_s:.0f} s"
        return ""

    def read_conditions(self) -> None:
        """Temperature and clock, anew every few seconds."""
        now_s = time.perf_counter()
        if now_s - self._read_s > _CONDITIONS_S:
            self.conditions, self._read_s = read_conditions(), now_s


def _rate(times_s: list[float]) -> float:
    """Events per second, from the first of them to the last."""
    if len(times_s) < 2:
        return 0.0
    return (len(times_s) - 1) / max(times_s[-1] - times_s[0], 1e-3)
