"""What starts it with the computer: systemd itself reads the unit, and hears that we are ready and well."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from live_page import serving, wait_until
from typer.testing import CliRunner

from edgeyolo.cli.app import make_app
from edgeyolo.live.service import make_dockerfile, make_unit, write_flags
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.serving import RecordOptions, ServeOptions

OPTIONS = (
    Thresholds(score_threshold=0.4, transfer=False),
    ServeOptions(host="0.0.0.0", classes=("red cell", "100%"), detect_rate=2.5),
    RecordOptions(record=Path("kept"), record_full="stop"),
)


def test_the_unit_is_one_for_systemd(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "edgeyolo.service"
    path.write_text(make_unit(bundle, ["rtsp://cam/$1", "0"], OPTIONS))
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]  # 2.5 of 10, where 10 is a service with nothing set


def test_the_unit_says_what_was_asked(bundle: Path) -> None:
    unit = make_unit(bundle, ["rtsp://cam/$1", "0"], OPTIONS)
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]
    assert words[1:7] == ["-m", "edgeyolo", "serve", str(bundle.resolve()), "rtsp://cam/$1", "0"]
    assert words[7:] == [
        *("--score-threshold", "0.4", "--no-transfer", "--host", "0.0.0.0", "--token-file", "/var/lib/edgeyolo/token"),
        *("--classes", "red cell", "--classes", "100%", "--detect-rate", "2.5"),
        *("--record", "/var/lib/edgeyolo/kept", "--record-full", "stop"),
    ]
    for line in ("DynamicUser=yes", "ProtectSystem=strict", "Restart=always", "WatchdogSec=60", "PrivateDevices=no"):
        assert f"\n{line}\n" in unit
    assert f"\nBindReadOnlyPaths={bundle.resolve()}\n" in unit  # for /tmp is not seen from a unit
    assert "PrivateDevices=yes" in make_unit(bundle, ["rtsp://cam/1"], OPTIONS)


def test_flags_are_read_back_as_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("edgeyolo.live.service.make_unit", lambda bundle, sources, options: seen.append(options) or "")
    words = [word for each in OPTIONS for word in write_flags(each)]
    done = CliRunner().invoke(make_app(), ["service", "cells.eyb", "0", *words])
    assert done.exit_code == 0, done.output
    assert seen == [OPTIONS]


def test_the_dockerfile_serves_it_to_others(bundle: Path) -> None:
    text = make_dockerfile(bundle, ["rtsp://cam/1"], (Thresholds(), ServeOptions(port=9000), RecordOptions()))
    instructions = [
        line.partition(" ")[0] for line in re.sub(r"\\\n", "", text).splitlines() if not line.startswith("#")
    ]
    assert instructions == ["FROM", "RUN", "COPY", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"]
    words = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1])
    assert words[:4] == ["edgeyolo", "serve", "/models/blocks.eyb", "rtsp://cam/1"]
    assert words[4:] == ["--host", "0.0.0.0", "--port", "9000", "--token-file", "/var/lib/edgeyolo/token"]
    assert "edgeyolo[live,onnxruntime]" in text and "USER edgeyolo" in text


def test_systemd_hears_of_us(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        with serving(made / "blocks.eyb", [str(made / "yard.avi")], ServeOptions(port=0)) as (live, client):
            assert systemd.recv(100) == b"READY=1"
            assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            live._health.error = "the detector is stuck"
            wait_until(lambda: client.ask("GET", "/healthz")[0] == 503)
            systemd.settimeout(1.0)
            with pytest.raises(TimeoutError):  # a restart is what helps
                for _ in range(3):
                    systemd.recv(100)
        systemd.settimeout(10)
        assert systemd.recv(100) == b"STOPPING=1"
