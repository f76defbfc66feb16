"""Every published number has a file, every file says how it was made, and what is used again is of the same code."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def record(importable: None) -> ModuleType:
    return importlib.import_module("record")


@pytest.fixture
def tables(importable: None) -> ModuleType:
    return importlib.import_module("tables")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_can_be_imported(name: str) -> None:
    """So that what a room takes away is missed here and not when figures are measured again."""
    for package in {"host_cpu": ["openvino"], "tensorrt_build": ["tensorrt_rtx"]}.get(name, []):
        pytest.importorskip(package, reason=f"{name} compares with it")
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_result_says_how_it_was_made(path: Path, record: ModuleType) -> None:
    header = json.loads(path.read_text())["record"]
    wanted = set(record.HEADER) - {"dirty", "code"} | {"recorded"} if "recorded" in header else set(record.HEADER)
    assert set(header) == wanted
    assert re.fullmatch(r"[0-9a-f]{40}", header["commit"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", header["date"])
    assert header["machine"]["processor"] and not re.search(r"(^| )/", header["command"])
    script = re.match(r"python benchmarks/(\w+)\.py", header["command"])
    assert (script and script[1] in SCRIPTS) or path.stem == "peers"


def test_documents_are_what_the_results_say(tables: ModuleType) -> None:
    used = set()
    for document in tables.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert tables.fill(text) == text, f"{document.name}: run `make tables`"
        used |= {block["name"] for block in tables.BLOCK.finditer(text)}
        assert text.count("<!-- table: ") == len(tables.BLOCK.findall(text))
    assert used == set(tables.TABLES)


def test_a_changed_result_changes_the_document(tables: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tables.load

    def changed(name: str) -> dict[str, object]:
        found = loaded(name)
        if name == "host_cpu":
            found["rows"][0]["median_ms"] = 1234.5
        return found

    monkeypatch.setattr(tables, "load", changed)
    text = (ROOT / "docs/host-cpu.md").read_text(encoding="utf-8")
    assert "| ncnn float32 | 1234.5 | 1.00 |" in tables.fill(text)


def test_a_result_is_used_again_for_the_same_code_and_settings_only(
    tmp_path: Path, record: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "bccd.py"), "--data", "../bccd", "--out", "/secret/place/runs"])
    assert record.load_reusable(path) is None
    record.save_result(path, {"epochs": 60, "size_hw": [320, 320], "ap": 1.5})
    header = json.loads(path.read_text())["record"]
    assert set(header) == set(record.HEADER)
    assert header["command"] == "python benchmarks/bccd.py --data ../bccd --out runs"
    assert record.load_reusable(path, epochs=60, size_hw=(320, 320))["ap"] == 1.5
    assert record.load_reusable(path, epochs=61) is None
    monkeypatch.setattr(record, "code_digest", lambda scripts=None: "other")
    assert record.load_reusable(path, epochs=60) is None


def test_the_digest_is_of_the_package_and_of_the_scripts_that_run(
    tmp_path: Path, record: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("edgeyolo/nn", "targets", "calib", "benchmarks"):
        (tmp_path / name).mkdir(parents=True)
    script = tmp_path / "benchmarks/mine.py"
    for path in (tmp_path / "edgeyolo/nn/conv.py", tmp_path / "targets/board.toml", script):
        path.write_text("1\n")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(script.parent))
    first = record.code_digest()
    importlib.import_module("mine")
    digests = [first, record.code_digest()]
    for path in (tmp_path / "edgeyolo/nn/conv.py", tmp_path / "targets/board.toml", script):
        path.write_text("2\n")
        digests.append(record.code_digest())
    (tmp_path / "benchmarks/another.py").write_text("3\n")
    assert len(set(digests)) == 5 and record.code_digest() == digests[-1]


def test_a_folder_of_other_code_is_emptied_and_one_of_somebody_else_is_not(tmp_path: Path, record: ModuleType) -> None:
    folder = tmp_path / "run"
    record.claim_folder(folder, epochs=60)
    (folder / "last").write_text("weights")
    record.claim_folder(folder, epochs=60)
    assert (folder / "last").exists()
    record.claim_folder(folder, epochs=30)
    assert not (folder / "last").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match="not made by a benchmark"):
        record.claim_folder(other, epochs=60)
    assert (other / "thesis.tex").exists()


def test_what_a_swap_was_worth_is_told_of_the_seeds_that_both_have(
    importable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    history_tables = importlib.import_module("history_tables")
    rows = [("ppyolo-tiny", 0, 40.0), ("ppyolo-tiny", 1, 42.0), ("pp-no-ignore", 1, 41.0), ("pp-no-ignore", 2, 99.0)]
    scored = {"ap50": {"val": 80.0, "test": 80.0}, "parameters": 1_078_155}
    runs = [{"row": row, "seed": seed, "ap": {"val": 1.0, "test": ap}, **scored} for row, seed, ap in rows]
    int8 = {("ppyolo-tiny", seed): {"ap": {"val": 1.0, "test": 39.5}, "millions": 812.4} for seed in (0, 1, 2)}
    monkeypatch.setattr(history_tables, "load_runs", lambda: {"runs": runs})
    monkeypatch.setattr(history_tables, "load_int8", lambda: int8)
    swaps = {row[2]: row[3:] for row in history_tables.swaps()[1]}
    assert swaps["nothing ignored"] == ["1", "41.0", "42.0", "-1.0", "-1.0"]
    assert swaps["no DropBlock"] == ["0", "not yet", "", "", ""]
    (row,) = (row for row in history_tables.generations()[1] if row[0].startswith("ppyolo-tiny"))
    assert row[1:] == ["1.1", "812", "2", "1.0", "41.0", "80.0", "40.0 to 42.0", "-1.5"]
    assert "`yolov1-nano`" in history_tables.missing() and "`ppyolo-tiny`" in history_tables.missing()


def test_no_idea_was_swapped_for_itself() -> None:
    """A swap that does not take hold trains the same network again, to the last digit: runs are deterministic."""
    runs = json.loads((BENCHMARKS / "results" / "history.json").read_text())["runs"]
    own = {(run["model"], run["seed"]): run["ap"] for run in runs if run["row"] == run["model"]}
    assert own
    for run in runs:
        if run["row"] != run["model"]:
            assert run["ap"] != own[run["model"], run["seed"]], run["row"]
