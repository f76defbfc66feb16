"""A real broker, Debian's mosquitto: discovery, states, what is said at the end, and the last will after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from live_page import serving, wait_until, write_video
from mosquitto import Mosquitto, find_mosquitto

from edgeyolo.live.discovery import Topics, list_discovery
from edgeyolo.live.mqtt import Broker, parse_broker
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.serving import ServeOptions


class Listener:
    """Hears everything that the broker is told."""

    def __init__(self, port: int) -> None:
        self.heard: dict[str, bytes] = {}
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_message = self.note
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def note(self, client: Any, data: Any, message: Any) -> None:
        self.heard[message.topic] = bytes(message.payload)

    def json(self, topic: str) -> Any:
        return json.loads(self.heard.get(topic, b"null"))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    program, reason = find_mosquitto()
    if not program and os.environ.get("EDGEYOLO_REQUIRE_MQTT"):
        pytest.fail(reason)
    if not program:
        pytest.skip(f"no MQTT broker here (tests/live/setup_mosquitto.py fetches it): {reason}")
    broker = Mosquitto(program, tmp_path_factory.mktemp("mosquitto"))
    yield broker
    broker.stop()


@pytest.fixture
def listener(mosquitto: Mosquitto) -> Iterator[Listener]:
    hearing = Listener(mosquitto.port)
    yield hearing
    hearing.close()


def read_template(template: str, state: dict[str, Any]) -> str:
    """What Home Assistant makes of a state: Jinja, with the message as `value_json`."""
    import jinja2

    return jinja2.Environment().from_string(template).render(value_json=state)


def test_home_assistant_finds_it_and_its_states(mosquitto: Mosquitto, listener: Listener, made: Path) -> None:
    options = ServeOptions(port=0, mqtt=f"127.0.0.1:{mosquitto.port}", mqtt_name="Yard Cam")
    with serving(made / "blocks.eyb", [str(made / "yard.avi")], options) as (_, client):
        wait_until(lambda: listener.heard.get("edgeyolo/yard_cam/available") == b"online")
        assert client.status()["broker"] is True
        topic = "edgeyolo/yard_cam/0-yard/state"
        wait_until(lambda: sum((listener.json(topic) or {"counts": {}})["counts"].values()) > 0)
        state = listener.json(topic)
        configs = {name: json.loads(raw) for name, raw in listener.heard.items() if name.startswith("homeassistant/")}
        assert configs and all(name.endswith("/config") for name in configs)
        for name, config in configs.items():
            _, kind, unique, _ = name.split("/")
            assert kind in ("sensor", "binary_sensor") and config["unique_id"] == unique
            assert config["availability_topic"] == "edgeyolo/yard_cam/available"
            assert config["device"]["identifiers"] == ["edgeyolo_yard_cam"]
            assert config["state_topic"] in (topic, "edgeyolo/yard_cam/state")
        found = {config["name"]: config for config in configs.values()}
        assert read_template(found["yard a"]["value_template"], state) == str(state["counts"]["a"])
        assert read_template(found["yard frames come"]["value_template"], state) == "ON"
        seen = "ON" if state["counts"]["b"] else "OFF"
        assert read_template(found["yard b seen"]["value_template"], state) == seen
        assert float(read_template(found["yard frames per second"]["value_template"], state)) > 0
        assert len({config["unique_id"] for config in configs.values()}) == len(configs)
    wait_until(lambda: listener.heard["edgeyolo/yard_cam/available"] == b"offline")


def test_the_broker_goes_and_comes_back(mosquitto: Mosquitto, made: Path) -> None:
    """It has kept nothing, so everything is told anew; frames go on meanwhile."""
    options = ServeOptions(port=0, mqtt=f"127.0.0.1:{mosquitto.port}", mqtt_name="back")
    with serving(made / "blocks.eyb", [str(made / "yard.avi")], options) as (_, client):
        wait_until(lambda: client.status()["broker"])
        mosquitto.stop()
        wait_until(lambda: client.status()["broker"] is False)
        detected = client.status()["sources"][0]["detected"]
        wait_until(lambda: client.status()["sources"][0]["detected"] > detected + 3)
        mosquitto.start()
        listener = Listener(mosquitto.port)
        wait_until(lambda: listener.heard.get("edgeyolo/back/available") == b"online")
        wait_until(lambda: listener.json("edgeyolo/back/0-yard/state"))
        listener.heard.clear()  # before it is asked for: an answer may be here before the next line is
        listener.client.publish("homeassistant/status", "online")  # as Home Assistant does when it starts
        wait_until(lambda: any(topic.startswith("homeassistant/sensor/edgeyolo_back") for topic in [*listener.heard]))
        listener.close()


def test_the_last_will_after_a_kill(mosquitto: Mosquitto, listener: Listener, made: Path, tmp_path: Path) -> None:
    """The command in a process of its own, which has no chance to say anything."""
    write_video(tmp_path / "grey.avi", grey=True)
    command = [
        sys.executable,
        "-m",
        "edgeyolo",
        "serve",
        str(made / "blocks.eyb"),
        str(tmp_path / "grey.avi"),
        "--json",
    ]
    command += ["--port", "0", "--mqtt", f"127.0.0.1:{mosquitto.port}", "--mqtt-name", "killed"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        started = json.loads(process.stdout.readline())
        assert started["url"] == f"http://127.0.0.1:{started['port']}/"
        wait_until(lambda: listener.heard.get("edgeyolo/killed/available") == b"online", 40)
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: listener.heard["edgeyolo/killed/available"] == b"offline", 60)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("text", "broker"),
    [
        ("broker", Broker("broker", 1883, False, None)),
        ("10.0.0.2:1884", Broker("10.0.0.2", 1884, False, None)),
        ("mqtts://me%40home@broker", Broker("broker", 8883, True, "me@home")),
    ],
)
def test_how_a_broker_is_written(text: str, broker: Broker) -> None:
    assert parse_broker(text) == broker


@pytest.mark.parametrize(
    "text", ["", "http://broker", "broker:port", "mqtt://", "mqtt://a/b", "mqtt://me:secret@broker"]
)
def test_what_is_no_broker_is_said(text: str) -> None:
    with pytest.raises(UsageError):
        parse_broker(text)


def test_many_classes_wait_until_they_are_wanted() -> None:
    classes = [f"class {number} '\"" for number in range(80)]
    found = dict(list_discovery(Topics("node"), ["cam", "cam"], classes, "m"))
    counts = [message for message in found.values() if "enabled_by_default" in message]
    assert len(counts) == 2 * 2 * 80 and not any(message["enabled_by_default"] for message in counts)
    state = {"counts": {name: number for number, name in enumerate(classes)}}
    templates = [m["value_template"] for topic, m in found.items() if topic.endswith("_0_cam_7_count/config")]
    assert [read_template(template, state) for template in templates] == ["7"]
