"""A broker that is told what is seen; when it cannot be reached it is tried again, and nothing waits for it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from edgeyolo.live.discovery import OFFLINE, ONLINE, PREFIX, Topics, list_discovery
from edgeyolo.live.state import SourceStatus
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.packages import import_package

logger = logging.getLogger(__name__)

_KEEPALIVE_S = 15  # after one and a half of which a broker sends the last will of who is gone without a word
_RETRY_S = (1, 30)
_REPEAT_S = 30.0  # a state is told again where it does not change
_SCHEMES = {"mqtt": 1883, "mqtts": 8883}
_LEFT_OUT = ("name", "objects", "image_hw", "captured", "detected")  # of what a state tells


@dataclass(frozen=True)
class Broker:
    """Where it is, and who we are to it."""

    host: str
    port: int
    is_secure: bool
    user: str | None


def parse_broker(text: str) -> Broker:
    """HOST, HOST:PORT or mqtt[s]://[USER@]HOST[:PORT].

    Raises:
        UsageError: it is not written like that.
    """
    written = urlsplit(text if "://" in text else f"mqtt://{text}")
    try:
        port = written.port
    except ValueError:
        port = -1
    if written.scheme not in _SCHEMES or not written.hostname or port == -1 or written.path.strip("/"):
        raise UsageError("is no broker", where="--mqtt", hint="Write HOST, HOST:PORT or mqtts://USER@HOST:PORT")
    if written.password is not None:
        raise UsageError("has a password in it", where="--mqtt", hint="Put it into a file: --mqtt-password-file")
    user = unquote(written.username) if written.username else None
    return Broker(written.hostname, port or _SCHEMES[written.scheme], written.scheme == "mqtts", user)


class Teller:
    """Tells a broker; a thread of the client's own sends.

    Raises:
        MissingPackageError: paho-mqtt is not installed.
    """

    def __init__(
        self,
        broker: Broker,
        password: str | None,
        topics: Topics,
        *,
        sources: Sequence[str],
        classes: Sequence[str],
        model: str,
    ) -> None:
        paho: Any = import_package("paho.mqtt.client", needed_for="--mqtt", extra="live")
        self._topics, self._sources = topics, sources
        self._entities = list(list_discovery(topics, sources, classes, model))
        self._told: dict[str, tuple[bytes, float]] = {}
        self._is_refused = False
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"edgeyolo-{topics.node}")
        self._client.max_queued_messages_set(2 * len(self._entities) + 100)
        self._client.reconnect_delay_set(*_RETRY_S)
        self._client.will_set(topics.available, OFFLINE, qos=1, retain=True)
        self._client.username_pw_set(broker.user, password) if broker.user else None
        if broker.is_secure:
            self._client.tls_set()
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._where = f"{broker.host}:{broker.port}"
        self._client.connect_async(broker.host, broker.port, keepalive=_KEEPALIVE_S)

    def start(self) -> None:
        """Begin to connect."""
        self._client.loop_start()

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there."""
        return bool(self._client.is_connected())

    def tell(self, statuses: Sequence[SourceStatus], temperature_c: float | None) -> None:
        """What has changed; never waits."""
        if not self.is_connected:
            return
        self._tell(self._topics.machine, {"temperature_c": temperature_c})
        for position, status in enumerate(statuses):
            self._tell(self._topics.source(position, status.name), _state_of(status))

    def close(self) -> None:
        """Say that we go, and go."""
        if self.is_connected:
            self._client.publish(self._topics.available, OFFLINE, qos=1, retain=True).wait_for_publish(2.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _tell(self, topic: str, state: dict[str, Any]) -> None:
        raw, now_s = json.dumps(state).encode(), time.monotonic()
        before, at_s = self._told.get(topic, (b"", 0.0))
        if raw != before or now_s - at_s > _REPEAT_S:
            self._client.publish(topic, raw, retain=True)
            self._told[topic] = (raw, now_s)

    def _introduce(self) -> None:
        """Everything that Home Assistant needs to know us; again after each connection and each start of its own."""
        for topic, message in self._entities:
            self._client.publish(topic, json.dumps(message), qos=1, retain=True)
        self._client.publish(self._topics.available, ONLINE, qos=1, retain=True)
        self._told.clear()

    def _on_connect(self, client: Any, data: object, flags: object, reason: Any, properties: object) -> None:
        if reason.is_failure:
            if not self._is_refused:
                logger.error("%s: the broker refuses: %s", self._where, reason)
            self._is_refused = True
            return
        self._is_refused = False
        logger.info("%s: the broker is told", self._where)
        client.subscribe(f"{PREFIX}/status")
        self._introduce()

    def _on_disconnect(self, client: Any, data: object, flags: object, reason: Any, properties: object) -> None:
        if reason.is_failure and not self._is_refused:
            logger.warning("%s: the broker is gone (%s); it is tried again", self._where, reason)

    def _on_message(self, client: Any, data: object, message: Any) -> None:
        """Home Assistant has started."""
        if bytes(message.payload) == ONLINE.encode():
            self._introduce()


def _state_of(status: SourceStatus) -> dict[str, Any]:
    names = [name for name in status.__struct_fields__ if name not in _LEFT_OUT]
    rounded = {"fps": round(status.fps, 1), "p99_ms": round(status.p99_ms, 1), "median_ms": round(status.median_ms, 1)}
    return {name: getattr(status, name) for name in names} | rounded
