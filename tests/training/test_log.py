"""What a run tells while it goes on and afterwards."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.training.checkpoint import EpochRow
from edgeyolo.training.log import TensorBoardLog, progress_text


def row(epoch: int, ap: float | None = None) -> EpochRow:
    return EpochRow(
        epoch=epoch, losses={"box": 0.5, "total": 1.0 / epoch}, learning_rate=0.01, seconds=2.0, ap=ap, ap50=ap
    )


def test_the_line_has_what_is_known() -> None:
    losses = {"box": 0.05, "total": 0.1125}
    full = progress_text(losses, best_ap=51.24, pictures_per_second=41.2, seconds_left=3725)
    assert full == "loss 0.1125 (box 0.05)  best AP 51.2  41.2 pictures/s  1 h 02 min left"
    early = progress_text({"total": 2.0}, best_ap=-1, pictures_per_second=1234.4, seconds_left=0)
    assert early == "loss 2  1234 pictures/s"
    assert progress_text(losses, best_ap=0, pictures_per_second=9, seconds_left=65).endswith(
        "best AP 0.0  9.0 pictures/s  1:05 left"
    )


def test_tensorboard_holds_the_rows_of_a_resumed_run(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TensorBoardLog(tmp_path) as log:
        for epoch in (1, 2, 3):
            log.add([row(epoch, ap=None if epoch == 1 else 10.0 * epoch)])
    with TensorBoardLog(tmp_path, done=2) as log:  # epoch 3 was not saved
        log.add([row(3, ap=99.0)])
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/ap")] == [(2, 20.0), (3, 99.0)]
    assert [e.step for e in events.Scalars("loss/total")] == [1, 2, 3]


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingPackageError, match=r"edgeyolo\[tensorboard\]"):
        TensorBoardLog(tmp_path)
