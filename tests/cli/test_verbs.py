"""What each verb prints: JSON alone on stdout, tables and progress elsewhere, and the files it says it wrote."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import msgspec
import numpy as np
import pytest

import edgeyolo
from edgeyolo import __version__
from edgeyolo.bundle import open_bundle, read_manifest, write_bundle
from edgeyolo.cli._bench import check_gate, show_record, write_csv
from edgeyolo.cli.app import command_of, list_verbs
from edgeyolo.cli.console import Console
from edgeyolo.cli.models import models as list_models
from edgeyolo.data.drawn import draw_dataset, draw_picture
from edgeyolo.runtime import Detector
from edgeyolo.spec.benchmark import BenchRecord, Rail, Spread
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.latency import ModelsOptions
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.recipe import list_recipes
from edgeyolo.spec.target import list_targets

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three good pictures and a broken one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        image = draw_picture(np.random.default_rng(i), (50 + 10 * i, 80)).image
        assert cv2.imwrite(str(folder / f"{i}.png"), image)
    (folder / "1b.png").write_bytes(b"\x89PNG not really")
    return folder


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"edgeyolo {__version__}\n"


def test_every_verb_has_help_and_json(run: Run) -> None:
    assert {"train", "quantize", "deploy", "evaluate", "detect", "bench", "inspect", "doctor", "demo"} <= set(
        list_verbs()
    )
    listed = run("--help").stdout
    for verb in map(command_of, list_verbs()):
        assert f" {verb} " in listed
        done = run(verb, "--help")
        assert done.returncode == 0
        assert "--json" in done.stdout


def test_models(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    done = run("models", "--json")
    known = {model["name"]: model for model in json.loads(done.stdout)}
    tiny = known["yolov7-tiny"]
    assert set(tiny) == {
        "name",
        "family",
        "task",
        "parameters_training",
        "parameters_deploy",
        "gflops",
        "image_size",
        "licence",
    }
    assert tiny["parameters_training"] == 6_228_762
    assert (tiny["task"], known["hrnet-w32"]["task"]) == ("detection", "keypoints")
    assert "6,228,762" in done.stderr
    list_models(Console(json=False), ModelsOptions())
    assert "6,228,762" in capsys.readouterr().out


def test_targets_and_recipes(run: Run) -> None:
    for verb, names in (("targets", list_targets()), ("recipes", list_recipes())):
        assert [entry["name"] for entry in json.loads(run(verb, "--json").stdout)] == names
        text = run(verb).stdout
        assert all(name in text for name in names)


def test_doctor(run: Run) -> None:
    told = json.loads(run("doctor", "--json").stdout)
    assert told["machine"]["python"] == platform.python_version()
    versions = {entry["package"]: entry["version"] for entry in told["packages"]}
    assert versions["numpy"] == importlib.metadata.version("numpy")
    assert all(entry["install"].startswith("pip install") for entry in told["packages"])


def test_inspect(run: Run, bundle: Path, tmp_path: Path) -> None:
    done = run("inspect", bundle, "--json")
    manifest = json.loads(done.stdout)
    assert manifest["target"] == "host-onnx"
    assert manifest["model"]["class_names"] == ["disc", "ring"]
    assert [field["theoretical_hw"] for field in manifest["receptive_fields"]] == [[795] * 2, [891] * 2, [1083] * 2]
    with open_bundle(bundle) as opened:  # as it was before they were recorded
        older = msgspec.structs.replace(opened.manifest, receptive_fields=())
        write_bundle(tmp_path / "older.eyb", older, opened.folder)
    again = json.loads(run("inspect", tmp_path / "older.eyb", "--json").stdout)
    assert again["receptive_fields"] == manifest["receptive_fields"]
    text = run("inspect", bundle).stdout
    assert "891 x 891" in text
    for digest in manifest["sha256"].values():
        assert digest in text


def test_inspect_finds_an_altered_bundle(run: Run, bundle: Path, tmp_path: Path) -> None:
    raw = bytearray(bundle.read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "altered.eyb").write_bytes(raw)
    done = run("inspect", tmp_path / "altered.eyb")
    assert done.returncode == 1
    assert "altered.eyb" in done.stderr


def test_detect_goes_on_after_a_broken_picture(run: Run, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = ["--score-threshold", "0.001", "--max-detections", "5", "--json"]
    done = run("detect", bundle, pictures, "--save", tmp_path / "out", *arguments)
    assert done.returncode == 1
    assert "1b.png" in done.stderr
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert [record["picture"] for record in told["pictures"]] == ["0.png", "1.png", "2.png"]
    assert [record["image_hw"] for record in told["pictures"]] == [[50, 80], [60, 80], [70, 80]]
    assert len(told["errors"]) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "2.png"]
    assert cv2.imread(str(tmp_path / "out/0.png")).shape == (50, 80, 3)


def test_detect_says_what_the_runtime_finds(run: Run, bundle: Path, pictures: Path) -> None:
    arguments = ["--score-threshold", "0.001", "--max-detections", "5", "--json"]
    told = json.loads(run("detect", bundle, pictures / "2.png", "--nms", "matrix", *arguments).stdout)
    with Detector.load(bundle, score_threshold=0.001, max_detections=5, nms="matrix") as detector:
        expected = detector.detect(cv2.imread(str(pictures / "2.png"))).as_dicts(detector.class_names)
    assert told["pictures"][0]["objects"] == expected
    assert expected


def test_a_bundle_detects_in_the_way_that_it_was_deployed(model_folder: Path, tmp_path: Path) -> None:
    written = edgeyolo.deploy(model_folder, "host-onnx", tmp_path / "diou.eyb", nms="diou")
    assert written.manifest.nms == "diou"
    with pytest.raises(UsageError, match="nms"):
        edgeyolo.deploy(model_folder, "host-onnx", tmp_path / "other.eyb", nms="soft")
    draw_dataset(tmp_path / "drawn", {"train": 1, "val": 1})
    with pytest.raises(UsageError, match="deploy it with --nms matrix"):
        edgeyolo.evaluate(written.bundle, tmp_path / "drawn", nms="matrix", record=True)


def test_detect_keeps_pictures_of_one_name_apart(run: Run, bundle: Path, pictures: Path, tmp_path: Path) -> None:
    picture = pictures / "0.png"
    done = run("detect", bundle, picture, picture, picture, "--frames", "2", "--save", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0-2.png", "0.png"]


def test_detect_does_not_write_over_what_it_reads(run: Run, bundle: Path, pictures: Path) -> None:
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    for source in (pictures, pictures / "0.png", f"{pictures}/*.png"):
        done = run("detect", bundle, source, "--save", pictures / ".." / pictures.name, "--score-threshold", "0.001")
        assert done.returncode == 1 and "which is read" in done.stderr, done.stderr
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


def test_detect_expands_a_quoted_pattern(run: Run, bundle: Path, pictures: Path) -> None:
    done = run("detect", bundle, f"{pictures}/[01].png", "--json")
    assert done.returncode == 0, done.stderr
    assert [record["picture"] for record in json.loads(done.stdout)["pictures"]] == ["0.png", "1.png"]


def test_bench(run: Run, bundle: Path, pictures: Path) -> None:
    done = run(
        "bench", bundle, "--runs", "4", "--warmup", "1", "--threads", "1", "--image", pictures / "1.png", "--json"
    )
    told = json.loads(done.stdout)
    assert told["runs"] == 4
    assert told["picture_hw"] == [60, 80]
    assert set(told["spread"]) == {"pre", "network", "post", "total"}
    for times in told["spread"].values():
        assert 0 < times["median_ms"] <= times["p90_ms"] <= times["p99_ms"]
    assert told["spread"]["network"]["median_ms"] < told["spread"]["total"]["median_ms"]
    assert told["first_ms"] > told["load_ms"] > 0 and 20 < told["peak_memory_mib"] < 20_000
    assert told["per_second"] > 0
    assert (told["target"], told["bundle_sha256"]) == ("host-onnx", sha256_of(bundle))
    assert {"before", "after", "throttled", "machine", "power"} <= told.keys()
    assert (told["ended_by"], told["interval_ms"], len(told["slices"])) == ("runs", {}, 4)
    assert (told["model"], told["licence"]) == (read_manifest(bundle).model.name, "own weights")
    assert "network" in run("bench", bundle, "--runs", "2").stdout


def test_bench_says_how_layers_run_and_draws(run: Run, bundle: Path, tmp_path: Path) -> None:
    plot, table = tmp_path / "times.svg", tmp_path / "times.csv"
    drawn = ["--plot", plot, "--csv", table]
    done = run("bench", bundle, "--seconds", "0.3", "--width", "1e-9", "--layers", *drawn, "--json")
    told = json.loads(done.stdout)
    assert told["ended_by"] == "time"
    low, high = told["interval_ms"]["total"]
    assert low <= told["spread"]["total"]["median_ms"] <= high
    assert sum(told["layers"]["counts"].values()) == len(told["layers"]["rows"]) > 50
    assert "of the time" in done.stderr and "runs in" in done.stderr
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert (float(row["total_median_low_ms"]), row["ended_by"]) == (low, "time")
    picture = ElementTree.fromstring(plot.read_text())
    assert picture.tag.endswith("svg") and "<text" not in plot.read_text() and "@import" not in plot.read_text()
    links = [value for part in picture.iter() for name, value in part.items() if name.endswith("href")]
    assert all(link.startswith("#") for link in links), "nothing outside is needed"
    alone = json.loads(run("inspect", bundle, "--layers", "--json").stdout)
    assert alone["counts"] == told["layers"]["counts"]
    refused = run("bench", bundle, "--plot", tmp_path / "times.jpg")
    assert refused.returncode == 2 and "no .svg" in refused.stderr


def test_bench_for_a_while_and_against_another(run: Run, bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "times.csv"
    copy = shutil.copy(bundle, tmp_path / "copy.eyb")
    arguments = ["--minutes", "0.005", "--runs", "8", "--warmup", "1", "--compare", copy, "--csv", table, "--json"]
    told = json.loads(run("bench", bundle, *arguments).stdout)
    (minute,) = told["minutes"]
    assert minute["calls"] == told["runs"] > 1
    assert minute["total"] == told["spread"]["total"]
    ratio, low, high = told["comparison"]["total"]
    assert told["comparison"]["rounds"] == 8 and 0 < low <= ratio <= high
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert float(row["total_median_ms"]) == told["spread"]["total"]["median_ms"]
    assert (row["target"], row["host"]) == ("host-onnx", "")


def test_power_is_said_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.loads(next((Path(__file__).parents[2] / "benchmarks/boards").glob("x86*.json")).read_text())["record"]
    rail = Rail(source="ina3221", name="VDD_IN", mean_w=7.25, most_w=9.0, joules_per_call=0.125)
    record = msgspec.structs.replace(msgspec.convert(row, BenchRecord), power=(rail,))
    show_record(Console(json=False), record)
    assert "power, ina3221 VDD_IN: 7.25 W, 9.00 at most, 0.125 J a call" in capsys.readouterr().out
    write_csv(tmp_path / "times.csv", [msgspec.to_builtins(record)], Console(json=False))
    (written,) = csv.DictReader((tmp_path / "times.csv").read_text().splitlines())
    assert written["power"] == "ina3221 VDD_IN 7.250 W" and written["model"] == record.model


def test_bench_is_a_gate(run: Run, bundle: Path) -> None:
    """Median and p90 of the whole call; the figures come all the same, and JSON is one object."""
    arguments = ["bench", bundle, "--runs", "3", "--warmup", "1", "--json", "--max-ms"]
    passed, failed = run(*arguments, "100000"), run(*arguments, "0.001")
    assert (passed.returncode, failed.returncode) == (0, 4), failed.stderr
    assert "Within the limit" in passed.stderr
    total = json.loads(failed.stdout)["spread"]["total"]
    told = f"median {total['median_ms']:.2f} ms, p90 {total['p90_ms']:.2f} ms, at most 0.001 ms"
    assert told in failed.stderr and "Traceback" not in failed.stderr
    assert run(*arguments, "0").returncode == 2


def test_a_slow_tenth_fails_the_gate_too() -> None:
    console = Console(json=False)
    check_gate(Spread(5.0, 30.5, 40.0), 30.0, Path("a.eyb"), console)
    assert console.exit_code == 4
    console = Console(json=False)
    check_gate(Spread(5.0, 30.0, 40.0), 30.0, Path("a.eyb"), console)
    assert console.exit_code == 0
