"""Search: real short runs, gone on with after a kill, and every bad range explained before anything is trained."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.errors import DataError, MissingPackageError, StoppedError, TrainingError, UsageError
from edgeyolo.spec.settings import override_settings
from edgeyolo.spec.training import SearchOptions, TrainConfig
from edgeyolo.training import search as module
from edgeyolo.training.checkpoint import EpochRow
from edgeyolo.training.config import peak_learning_rate, resolve
from edgeyolo.training.search import Range, check_ranges, default_ranges, parse_range, search

optuna = pytest.importorskip("optuna")

CONFIG = TrainConfig(
    model="yolov7-nano", epochs=1, image_size=64, batch=4, workers=0, precision="fp32", device="cpu", cache_mib=16
)
RANGES = [Range("learning_rate", 1e-4, 1e-2, log=True), Range("augment.mosaic", 0.0, 1.0), Range("batch", 2, 4)]


def asked(ranges: Sequence[Range], **options: object) -> SearchOptions:
    return SearchOptions(vary=tuple(map(str, ranges)), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 4, "val": 2, "test": 1}, image_hw=(64, 64), seed=1)
    return folder


@pytest.fixture(scope="module")
def splits(folder: Path) -> tuple[Dataset, Dataset]:
    return open_dataset(folder, "train"), open_dataset(folder, "val")


def test_three_trials_leave_the_best_run_and_a_table(splits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    result = search(CONFIG, splits, tmp_path, asked(RANGES, trials=3))
    assert [row.number for row in result.trials] == [0, 1, 2] and {row.state for row in result.trials} == {"done"}
    assert result.best.ap == max(row.ap or 0.0 for row in result.trials)
    assert [path.name for path in sorted(tmp_path.glob("trial-*"))] == [result.folder.name if result.folder else ""]
    table = list(csv.DictReader((tmp_path / "search.csv").read_text().splitlines()))
    assert [float(row["ap"]) for row in table] == pytest.approx([row.ap for row in result.trials], abs=1e-4)
    for row in table:
        assert 1e-4 <= float(row["learning_rate"]) <= 1e-2 and row["batch"] in ("2", "3", "4")
    config = json.loads((tmp_path / result.folder.name / "best.json").read_text())["config"]
    best = override_settings(CONFIG, result.best.settings)
    assert msgspec.convert(config, TrainConfig) == resolve(best)
    toml = msgspec.toml.decode((tmp_path / "best.toml").read_bytes())
    assert toml["augment"]["mosaic"] == best.augment.mosaic and toml["learning_rate"] == best.learning_rate

    again = search(CONFIG, splits, tmp_path, asked(RANGES, trials=4, keep_all=True))
    assert again.trials[:3] == result.trials and len(again.trials) == 4
    assert search(CONFIG, splits, tmp_path, asked(RANGES, trials=2)).trials == again.trials
    with pytest.raises(UsageError, match="other settings or ranges"):
        search(CONFIG, splits, tmp_path, asked(RANGES[:1], trials=4))


def test_a_search_that_was_killed_goes_on(folder: Path, splits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    code = f"""
import msgspec
from pathlib import Path
from edgeyolo import search
from edgeyolo.spec.training import SearchOptions
from edgeyolo.spec.training import TrainConfig
config = msgspec.json.decode({msgspec.json.encode(CONFIG)!r}, type=TrainConfig)
options = SearchOptions(vary=("learning_rate=1e-4:1e-2",), trials=50)
search(config, Path({str(folder)!r}), Path({str(tmp_path)!r}), options)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    table = tmp_path / "search.csv"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and child.poll() is None:
        if table.exists() and (tmp_path / f"trial-{table.read_text().count('done'):04d}").is_dir():
            break  # one is done and the next has begun; a trial that nobody has signed yet is waited for
        time.sleep(0.02)
    assert child.poll() is None, child.communicate()
    child.kill()
    child.communicate()
    done = table.read_text().count("done")
    result = search(CONFIG, splits, tmp_path, asked([Range("learning_rate", 1e-4, 1e-2)], trials=done + 1))
    states = [row.state for row in result.trials]
    assert done + 1 <= states.count("done") <= done + 2 and states.count("running") <= 1
    assert result.trials[0].number == 0


def start_search(folder: Path, out: Path, storage: str, trials: int) -> subprocess.Popen[str]:
    command = ["search", "--model", "yolov7-nano", "--data", str(folder), "--out", str(out), "--storage", storage]
    command += ["--trials", str(trials), "--epochs", "2", "--image-size", "64", "--batch", "4", "--workers", "0"]
    command += ["--device", "cpu", "--vary", "learning_rate=1e-4:1e-2:log", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "edgeyolo", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_processes_share_one_search_and_one_of_them_dies(folder: Path, tmp_path: Path) -> None:
    """They start at once, draw settings of their own, and the trial of the one that is killed is made by the other."""
    storage, trials = f"sqlite:///{tmp_path / 'shared.db'}", 4
    killed, other = (start_search(folder, tmp_path / name, storage, trials) for name in "ab")
    deadline = time.monotonic() + 300
    found: list[optuna.trial.FrozenTrial] = []
    while time.monotonic() < deadline and not {killed.pid, other.pid} <= {
        process_of(trial) for trial in found if trial.state.name == "RUNNING"
    }:
        assert killed.poll() is None and other.poll() is None, (killed.communicate(), other.communicate())
        time.sleep(0.05)
        found = trials_of(storage)
    killed.kill()
    killed.communicate()
    shown, said = other.communicate(timeout=300)
    assert other.returncode == 0, said
    found = trials_of(storage)
    assert [trial.state.name for trial in found].count("COMPLETE") == trials
    assert {trial.state.name for trial in found} <= {"COMPLETE", "FAIL"}
    assert {process_of(trial) for trial in found} == {killed.pid, other.pid}
    rates = [trial.params["learning_rate"] for trial in found if trial.params]
    assert len(set(rates)) == len(rates) >= trials
    assert json.loads(shown)["best"]["ap"] == max(trial.value for trial in found if trial.value is not None)


def trials_of(storage: str) -> list[optuna.trial.FrozenTrial]:
    """What is in the database, if it is there."""
    try:
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage).get_trials()
    except (KeyError, ValueError):
        return []


def process_of(trial: optuna.trial.FrozenTrial) -> int:
    return int(trial.user_attrs.get("process", ":0").rpartition(":")[2])


def test_a_trial_of_which_nobody_says_anything_is_made_again(
    splits: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first release left them, which did not say whose they are."""
    search(CONFIG, splits, tmp_path, asked(RANGES, trials=1))
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    optuna.load_study(study_name=None, storage=storage).ask()
    monkeypatch.setattr("edgeyolo.training.study._GRACE_SECONDS", 1)
    result = search(CONFIG, splits, tmp_path, asked(RANGES, trials=2))
    assert [row.state for row in result.trials] == ["done", "failed", "done"]


def test_a_run_that_lags_behind_is_cut_short(
    splits: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six runs whose AP is made up, as no run of a second has one; the sixth is worse from its first epoch on."""
    epochs_of: list[int] = []

    def train(config: TrainConfig, *_: object, on_epoch, **__: object) -> None:
        epochs_of.append(0)
        for epoch in range(1, config.epochs + 1):
            epochs_of[-1] = epoch
            ap = (1.0 if len(epochs_of) == 6 else 30.0 + len(epochs_of)) * epoch
            on_epoch([EpochRow(epoch=epoch, losses={}, learning_rate=0.1, seconds=1.0, ap=ap, ap50=ap)])

    monkeypatch.setattr(module, "train", train)
    config = msgspec.structs.replace(CONFIG, epochs=9)
    result = search(config, splits, tmp_path, asked(RANGES, trials=6))
    assert [row.state for row in result.trials] == ["done"] * 5 + ["cut short"]
    assert epochs_of == [9] * 5 + [3]  # a third is always trained
    assert result.best.number == 4 and result.best.ap == 35 * 9 and result.trials[5].ap == 3.0


def test_a_loss_that_runs_away_counts_nothing_and_a_stop_ends_all(
    splits: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_away(*_: object, **__: object) -> None:
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(module, "train", run_away)
    result = search(CONFIG, splits, tmp_path, asked(RANGES, trials=2))
    assert [row.ap for row in result.trials] == [0.0, 0.0] and result.folder is None

    def stop(*_: object, **__: object) -> None:
        raise StoppedError("stopped by SIGTERM")

    monkeypatch.setattr(module, "train", stop)
    with pytest.raises(StoppedError):
        search(CONFIG, splits, tmp_path, asked(RANGES, trials=4))


def test_what_is_wrong_with_the_data_is_said(tmp_path: Path, splits: tuple[Dataset, Dataset]) -> None:
    train, val = splits
    empty = Dataset(train.name, "train", train.class_names, [], train.report)
    with pytest.raises(DataError):
        search(CONFIG, (empty, val), tmp_path, asked(RANGES, trials=1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=1e-4:1e-2:log", Range("learning_rate", 1e-4, 1e-2, log=True)),
        ("augment.mosaic=0:1", Range("augment.mosaic", 0.0, 1.0)),
    ],
)
def test_ranges_are_read(text: str, expected: Range) -> None:
    assert parse_range(text) == expected and parse_range(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "learning_rate", "learning_rate=1", "=1:2", "a=1:2:3", "a=1:2:log:log", "a=x:2", "a=2:1", "a=1:1", "a=0:1:log",
     "a=nan:1", "a=0:inf"],
)  # fmt: skip
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--vary"):
        parse_range(text)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Range("batch", 0.5, 4), "whole"),
        (Range("model", 0, 1), "not a number"),
        (Range("augment", 0, 1), "not a number"),
        (Range("augment.mosaic", 0, 2), r"augment\.mosaic is 2"),
        (Range("ema_decay", 0.9, 1.5), "ema_decay"),
        (Range("epochs", 0, 5), "epochs is 0"),
    ],
)
def test_ranges_that_a_setting_cannot_have(bad: Range, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_ranges(CONFIG, [bad])


def test_unknown_and_repeated_keys() -> None:
    with pytest.raises(UsageError, match="learning_rate"):
        check_ranges(CONFIG, [Range("learning_rat", 0.1, 1)])
    with pytest.raises(UsageError, match="twice"):
        check_ranges(CONFIG, [RANGES[0], RANGES[0]])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_default_ranges_can_be_used(optimizer: str) -> None:
    config = msgspec.structs.replace(CONFIG, optimizer=optimizer)
    ranges = default_ranges(config)
    check_ranges(config, ranges)
    assert ranges[0].low < peak_learning_rate(config) < ranges[0].high


def test_a_storage_that_cannot_be_opened(splits: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    for url in ("nonsense", f"sqlite:///{tmp_path}/none/here.db", "nodialect://x"):
        with pytest.raises(UsageError, match="cannot be opened"):
            search(CONFIG, splits, tmp_path, asked(RANGES, trials=1, storage=url))


def test_without_optuna_it_says_what_to_install(
    splits: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingPackageError, match=r"edgeyolo\[search\]"):
        search(CONFIG, splits, tmp_path, asked(RANGES, trials=1))


def test_the_command_says_how_to_train_with_what_it_found(folder: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from edgeyolo.cli.app import make_app

    arguments = ["search", "--model", "yolov7-nano", "--data", str(folder), "--out", str(tmp_path), "--trials", "1"]
    arguments += ["--epochs", "1", "--image-size", "64", "--batch", "4", "--workers", "0", "--device", "cpu"]
    outcome = CliRunner().invoke(make_app(), [*arguments, "--vary", "learning_rate=1e-4:1e-2:log", "--json"])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)
    assert found["best"]["state"] == "done" and list(found["best"]["settings"]) == ["learning_rate"]
    assert f"--config {tmp_path / 'best.toml'}" in outcome.stderr
    bad = CliRunner().invoke(make_app(), [*arguments, "--vary", "learning_rate=2:1"])
    assert bad.exit_code == 2
