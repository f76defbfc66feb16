"""What the page's addresses answer, over real HTTP, with a detector at work on two videos."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from blocks import draw_blocks
from live_page import Client, encode, read_pictures, serving, wait_until
from prometheus_client.parser import text_string_to_metric_families

from edgeyolo.runtime import Detector
from edgeyolo.spec.errors import DataError, MissingPackageError, OutputError, UnknownNameError, UsageError
from edgeyolo.spec.serving import ServeOptions


def decode(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def test_the_picture_moves_and_each_source_has_its_own(client: Client) -> None:
    with client.open("GET", "/stream/0") as first, client.open("GET", "/stream/1") as second:
        assert first.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=edgeyolo-frame"
        pictures = [decode(jpeg) for jpeg in read_pictures(first, 3)]
        other = decode(read_pictures(second, 1)[0])
        assert client.status()["watchers"] == 2
    assert {picture.shape for picture in (*pictures, other)} == {(120, 160, 3)}
    for before, after in zip(pictures, [*pictures[1:], other], strict=True):
        assert np.abs(before.astype(int) - after).mean() > 10  # other blocks
    wait_until(lambda: client.status()["watchers"] == 0)


def test_boxes_are_on_the_picture(client: Client, page: tuple, bundle: Path) -> None:
    """A snapshot is what drawing by hand gives, for the very frame that it is of."""
    live, _ = page
    assert len(live._states[0].latest.detections) > 0
    status, jpeg = client.ask("GET", "/snapshot/0")
    assert status == 200 and decode(jpeg).shape == (120, 160, 3)
    colours = decode(jpeg).reshape(-1, 3).astype(int)
    from edgeyolo.runtime.draw import class_colour

    near = [np.abs(colours - class_colour(class_id)).max(1).min() for class_id in (0, 1)]
    assert min(near) < 40


def test_status_has_what_the_page_shows(client: Client) -> None:
    found = client.status()
    assert found["model"] == "one layer" and found["problem"] == "" and found["engine"] == "onnxruntime fp32"
    assert [source["name"] for source in found["sources"]] == ["yard", "gate"]
    for source in found["sources"]:
        assert source["fps"] > 0 and 0 < source["median_ms"] <= source["p99_ms"]
        assert source["captured"] >= source["detected"] > 0 and source["image_hw"] == [120, 160]
        assert source["counts"].keys() == {"a", "b"}
        assert sum(source["counts"].values()) == len(source["objects"]) > 0
        assert {"box_xyxy", "score", "class"} == source["objects"][0].keys()


def test_metrics_are_read_by_the_official_client(client: Client) -> None:
    with client.open("GET", "/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = response.read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    detected = {sample.labels["source"]: sample.value for sample in families["edgeyolo_frames_detected"].samples}
    assert detected.keys() == {"yard", "gate"} and min(detected.values()) > 0
    seconds = families["edgeyolo_detect_seconds"]
    assert seconds.type == "histogram"
    count = next(s for s in seconds.samples if s.name.endswith("_count") and s.labels["source"] == "yard")
    assert count.value >= 1
    assert {s.labels["class"] for s in families["edgeyolo_objects"].samples} == {"a", "b"}
    kinds = {name: family.type for name, family in families.items()}
    assert kinds["edgeyolo_frames_dropped"] == kinds["edgeyolo_refused"] == "counter"
    assert [s.value for s in families["edgeyolo_source_up"].samples] == [1, 1]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_a_picture_that_is_sent_gives_what_the_detector_gives(client: Client, bundle: Path, suffix: str) -> None:
    raw = encode(draw_blocks(np.random.default_rng(3), (90, 130)), suffix)
    with Detector.load(bundle, threads=1, score_threshold=0.3) as detector:
        wanted = detector.detect(decode(raw)).as_dicts(detector.class_names)
    status, answer = client.ask("POST", "/detect", raw)
    found = json.loads(answer)
    assert status == 200 and found["image_hw"] == [90, 130] and found["objects"] == wanted and len(wanted) > 2
    form = (
        b"--xyz\r\nContent-Disposition: form-data; name=note\r\n\r\nhello\r\n--xyz\r\nContent-Disposition: form-data; "
    )
    form += b'name="file"; filename="a"\r\nContent-Type: image/png\r\n\r\n' + raw + b"\r\n--xyz--\r\n"
    status, answer = client.ask("POST", "/detect", form, Content_Type='multipart/form-data; boundary="xyz"')
    assert status == 200 and json.loads(answer)["objects"] == wanted


def test_healthz_says_whether_the_detector_works(page: tuple) -> None:
    live, client = page
    assert client.ask("GET", "/healthz") == (200, b'{"status": "ok", "problem": ""}')
    try:
        live._health.error = "the network fails"
        status, raw = client.ask("GET", "/healthz")
    finally:
        live._health.error = ""
    assert status == 503 and json.loads(raw)["problem"] == "the network fails"


def test_without_a_source_pictures_can_be_sent(bundle: Path) -> None:
    with serving(bundle, []) as (_, client):
        assert client.status()["sources"] == []
        raw = encode(draw_blocks(np.random.default_rng(0), (64, 64)))
        assert client.ask("POST", "/detect", raw)[0] == 200


def test_what_cannot_be_served_is_said_at_once(made: Path, page: tuple, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no video, address or camera number"):
        serving(made / "blocks.eyb", ["nothing.avi"]).__enter__()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="is no video that can be read"):
        serving(made / "blocks.eyb", [str(tmp_path / "broken.mp4")]).__enter__()
    with pytest.raises(OutputError, match="cannot be listened on"):
        serving(made / "blocks.eyb", [], ServeOptions(port=page[0].port)).__enter__()
    with pytest.raises(UnknownNameError, match="unknown class 'c'"):
        serving(made / "blocks.eyb", [], ServeOptions(port=0, classes=("c",))).__enter__()


def test_only_classes_that_are_asked_for_are_seen(made: Path) -> None:
    with serving(made / "blocks.eyb", [str(made / "yard.avi")], ServeOptions(port=0, classes=("b",))) as (_, client):
        found = wait_until(lambda: client.status()["sources"][0]["objects"])
        assert {each["class"] for each in found} == {"b"}
        assert client.status()["sources"][0]["counts"].keys() == {"b"}


@pytest.mark.parametrize("package", ["h11", "prometheus_client"])
def test_a_package_that_is_not_installed_is_named(bundle: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=re.escape('pip install "edgeyolo[live]"')):
        serving(bundle, []).__enter__()


def test_a_setting_out_of_its_range_is_said(bundle: Path) -> None:
    with pytest.raises(UsageError, match="max_clients"):
        serving(bundle, [], ServeOptions(port=0, max_clients=0)).__enter__()


def test_followed_objects_have_ids(made: Path) -> None:
    zones = made.parent / "zones.toml"
    zones.write_text('unit = "share"\n[areas.all]\ncorners_xy = [[0, 0], [1, 0], [1, 1], [0, 1]]\n')
    options = ServeOptions(port=0, track="bytetrack", zones=zones)
    with serving(made / "blocks.eyb", [str(made / "yard.avi")], options) as (_, client):
        found = wait_until(lambda: client.status()["sources"][0]["objects"])
        assert all(each["id"] >= 1 for each in found) and len({each["id"] for each in found}) == len(found)
        assert client.status()["sources"][0]["zones"]["areas"]["all"]["entered"] > 0
        with client.open("GET", "/stream/0") as stream:
            assert len(read_pictures(stream, 2)) == 2
    with pytest.raises(UsageError, match="zones count what is followed"):
        serving(made / "blocks.eyb", [], ServeOptions(port=0, zones=zones)).__enter__()
