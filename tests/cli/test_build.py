"""`edgeyolo build`: what an engine keeps on this computer is made before the first start, and once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from whole_way import WholeWay

from edgeyolo.backends import list_engines, load_engine
from edgeyolo.cli.app import main


def run_build(bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["edgeyolo", "build", str(bundle), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told, dict)
    return told


def test_openvino_compiles_once(
    whole_way: WholeWay, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path))
    first = run_build(whole_way.bundles["host-openvino"], capsys, monkeypatch)
    assert first["engine"] == "openvino"
    assert first["made"] and all(Path(path).is_relative_to(tmp_path) for path in first["made"])
    run_build(whole_way.bundles["host-openvino"], capsys, monkeypatch)  # perhaps for another number of threads
    again = run_build(whole_way.bundles["host-openvino"], capsys, monkeypatch)
    assert again["made"] == [] and again["builds"]
    assert {*map(str, load_engine("openvino").list_built())} >= {*first["made"]}


def test_an_engine_that_builds_nothing_says_so(
    whole_way: WholeWay, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run_build(whole_way.bundles["host-onnx"], capsys, monkeypatch)
    assert (told["engine"], told["made"], told["builds"]) == ("onnxruntime", [], False)


def test_plans_are_listed_by_the_engine_that_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path))
    assert all(load_engine(name).list_built() == [] for name in list_engines())
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "key.plan").write_bytes(b"plan")
    assert load_engine("tensorrt").list_built() == [tmp_path / "tensorrt" / "key.plan"]
