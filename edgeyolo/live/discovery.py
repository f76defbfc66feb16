"""What Home Assistant is told of this computer: one retained message per entity, and it makes them by itself.

The form with one topic per entity is understood by every version since 2023.
Source: home-assistant.io, integrations "MQTT" (MQTT Discovery), "MQTT sensor", "MQTT binary sensor".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgeyolo import __version__

PREFIX = "homeassistant"
ONLINE, OFFLINE = "online", "offline"
_MANY_CLASSES = 20  # from here on, entities of classes wait until the user enables them


@dataclass(frozen=True)
class Topics:
    """Where what is told.

    Attributes:
        node: of this computer, letters, digits and "_".
    """

    node: str

    @property
    def available(self) -> str:
        """Retained "online", and the last will "offline"."""
        return f"edgeyolo/{self.node}/available"

    @property
    def machine(self) -> str:
        """JSON of the computer itself."""
        return f"edgeyolo/{self.node}/state"

    def source(self, position: int, name: str) -> str:
        """JSON of a source."""
        return f"edgeyolo/{self.node}/{position}-{plain_name(name)}/state"


def plain_name(text: str) -> str:
    """A name in the characters that topics and ids may have."""
    return re.sub(r"[^a-zA-Z0-9]+", "_", text).strip("_").lower() or "unnamed"


def list_discovery(
    topics: Topics, sources: Sequence[str], classes: Sequence[str], model: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Topic and message of each entity."""
    base = {
        "availability_topic": topics.available,
        "device": {
            "identifiers": [f"edgeyolo_{topics.node}"],
            "name": f"edgeyolo {topics.node}",
            "model": model,
            "manufacturer": "edgeyolo",
            "sw_version": __version__,
        },
        "origin": {"name": "edgeyolo", "sw_version": __version__},
    }
    heat = _measured("Temperature", "{{ value_json.temperature_c }}", unit="°C", device_class="temperature")
    yield _entity("sensor", topics, "temperature", {**base, "state_topic": topics.machine, **heat})
    for position, name in enumerate(sources):
        about = {**base, "state_topic": topics.source(position, name)}
        key = f"{position}_{plain_name(name)}"
        for entity, kind, message in _list_source(name, classes):
            yield _entity(kind, topics, f"{key}_{entity}", {**about, **message})


def _list_source(name: str, classes: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, kind and own part of each entity of a source."""
    yield (
        "frames_come",
        "binary_sensor",
        {
            "name": f"{name} frames come",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "value_template": "{{ 'ON' if value_json.phase == 'live' else 'OFF' }}",
        },
    )
    yield "fps", "sensor", _measured(f"{name} frames per second", "{{ value_json.fps }}", unit="fps")
    p99 = _measured(f"{name} p99", "{{ value_json.p99_ms }}", unit="ms", device_class="duration")
    yield "p99", "sensor", p99
    for number, each in enumerate(classes):
        # By position, for a class name may have quotes in it.
        count = f"(value_json.counts.values() | list)[{number}]"
        shared = {"enabled_by_default": len(classes) <= _MANY_CLASSES}
        yield (
            f"{number}_count",
            "sensor",
            {"name": f"{name} {each}", "state_class": "measurement", "value_template": f"{{{{ {count} }}}}", **shared},
        )
        seen = f"{{{{ 'ON' if {count} > 0 else 'OFF' }}}}"
        yield (
            f"{number}_seen",
            "binary_sensor",
            {"name": f"{name} {each} seen", "device_class": "occupancy", "value_template": seen, **shared},
        )


def _measured(name: str, template: str, *, unit: str, device_class: str | None = None) -> dict[str, Any]:
    kind = {"device_class": device_class} if device_class else {}
    return {
        "name": name,
        "value_template": template,
        "unit_of_measurement": unit,
        "state_class": "measurement",
        "entity_category": "diagnostic",
        **kind,
    }


def _entity(kind: str, topics: Topics, key: str, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    unique = f"edgeyolo_{topics.node}_{key}"
    return f"{PREFIX}/{kind}/{unique}/config", {**message, "unique_id": unique}
