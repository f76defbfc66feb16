"""`edgeyolo demo`: what it promises in the README, on the full demo; and how it says how long it will take."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgeyolo.cli import demo
from edgeyolo.cli.console import Console

LEAST_AP = 40


@pytest.mark.slow
def test_every_artefact_is_on_the_page_and_detects(run, tmp_path: Path) -> None:
    done = run("demo", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {"float torch", "fake-quant torch", "host-onnx int8", "host-ncnn int8", "raspberry-pi-5 int8"} <= {
        row["artefact"] for row in rows
    }
    assert min(row["ap"] for row in rows) > LEAST_AP
    page = (tmp_path / "demo/index.html").read_text()
    assert all(row["artefact"] in page and f"{row['ap']:.2f}" in page for row in rows)
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(links) > 15 and all((tmp_path / "demo" / link).is_file() for link in links)
    stages = re.findall(r"^(\d) of 6: .*all done in about", done.stderr, re.MULTILINE)
    assert stages == list("123456")


def test_what_is_left_follows_the_computer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    now = iter([100.0, 100.0 + 4 * 38])  # when it starts, and after drawing and training at a quarter of the speed
    monkeypatch.setattr(demo.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(demo, "_STAGES", {"draw": 3.0, "train": 35.0, "rest": 20.0})
    story = demo._Story(Console(json=False))
    for stage in demo._STAGES:
        story.begin(stage)
    assert re.findall(r"about (.*)\)", capsys.readouterr().out) == ["60 s", "60 s", "80 s"]
