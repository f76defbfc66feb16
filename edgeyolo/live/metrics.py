"""What Prometheus is told, in its text format.

Source: prometheus.io, "Metric and label naming" and "Exposition formats".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgeyolo.live.state import SourceState
from edgeyolo.runtime.clock import Timing
from edgeyolo.spec.benchmark import Conditions
from edgeyolo.spec.packages import import_package

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Everything that is counted here, read when it is asked for.

    Attributes:
        refused: requests that were not answered as they asked, by the reason.
        clients: gives how many connections are open.

    Raises:
        MissingPackageError: prometheus_client is not installed.
    """

    def __init__(self, states: Sequence[SourceState], conditions: Callable[[], Conditions], about: str) -> None:
        self.refused: Counter[str] = Counter()
        self.clients: Callable[[], int] = lambda: 0
        self._states, self._conditions, self._about = states, conditions, about
        self._prometheus = import_package("prometheus_client", needed_for="/metrics", extra="live")
        self._families = import_package("prometheus_client.metrics_core", needed_for="/metrics", extra="live")
        self._registry = self._prometheus.CollectorRegistry()
        self._seconds = self._prometheus.Histogram(
            "edgeyolo_detect_seconds",
            "Time of the detector's call that a frame was in.",
            ["source"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(self)

    def refuse(self, kind: str) -> None:
        """A request has been refused."""
        self.refused[kind] += 1

    def observe(self, source: str, timing: Timing) -> None:
        """A frame has been detected on."""
        self._seconds.labels(source).observe(timing.total_ms / 1e3)

    def render(self) -> bytes:
        """The page of text."""
        return bytes(self._prometheus.generate_latest(self._registry))

    def collect(self) -> Iterator[Any]:
        """For the registry: families of what is counted elsewhere."""
        statuses = [state.status() for state in self._states]
        kinds = self._families
        for name, text in (
            ("captured", "Frames that the source gave."),
            ("detected", "Frames that the detector saw."),
            ("dropped", "Frames that a newer one replaced."),
            ("reconnects", "How often the source came back."),
        ):
            label = f"edgeyolo_{name}" if name == "reconnects" else f"edgeyolo_frames_{name}"
            family = kinds.CounterMetricFamily(label, text, labels=["source"])
            for status in statuses:
                family.add_metric([status.name], getattr(status, name))
            yield family
        up = kinds.GaugeMetricFamily("edgeyolo_source_up", "1 where frames come.", labels=["source"])
        objects = kinds.GaugeMetricFamily(
            "edgeyolo_objects", "Objects in the latest frame.", labels=["source", "class"]
        )
        appeared = kinds.CounterMetricFamily(
            "edgeyolo_appeared", "How often a class appeared.", labels=["source", "class"]
        )
        for status in statuses:
            up.add_metric([status.name], status.phase == "live")
            for name, count in status.counts.items():
                objects.add_metric([status.name, name], count)
                appeared.add_metric([status.name, name], status.appeared[name])
        yield from (up, objects, appeared)
        yield from self._collect_machine()

    def _collect_machine(self) -> Iterator[Any]:
        kinds, conditions = self._families, self._conditions()
        if conditions.temperature_c is not None:
            yield kinds.GaugeMetricFamily(
                "edgeyolo_temperature_celsius", "Of the hottest sensor.", value=conditions.temperature_c
            )
        yield kinds.GaugeMetricFamily("edgeyolo_connections", "Clients that are connected.", value=self.clients())
        refused = kinds.CounterMetricFamily("edgeyolo_refused", "Requests that were refused.", labels=["reason"])
        for reason, count in sorted(self.refused.items()):
            refused.add_metric([reason], count)
        yield refused
        about = kinds.GaugeMetricFamily("edgeyolo_info", "What runs here.", labels=["model"])
        about.add_metric([self._about], 1)
        yield about
