"""Anchors: recall against a plain count, planted sizes are found, and what was fitted travels with the checkpoint."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from edgeyolo import models
from edgeyolo.data.dataset import Dataset, Record, make_report
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.auto_anchor import (
    Anchors,
    best_possible_recall,
    cluster_sizes,
    describe,
    fit_anchors,
    fit_to_dataset,
    letterboxed_sizes,
)
from edgeyolo.training.checkpoint import CheckpointRecord, load_checkpoint, save_checkpoint

TINY = models.anchors_of("yolov7-tiny")
assert TINY is not None


def elongated(count: int = 600) -> np.ndarray:
    """Sizes 12 to 20 times as wide as high, which no anchor of tiny reaches."""
    rng = np.random.default_rng(3)
    heights = rng.uniform(3, 25, count)
    return np.stack([heights * rng.uniform(12, 20, count), heights], 1)


def test_recall_is_the_share_of_sizes_within_a_factor_of_four() -> None:
    rng = np.random.default_rng(0)
    boxes, anchors = np.exp(rng.uniform(0, 6, (300, 2))), np.exp(rng.uniform(1, 6, (5, 2)))
    reached = 0
    for w, h in boxes:
        reached += any(max(w / a, a / w, h / b, b / h) < 4 for a, b in anchors)
    assert 0 < reached < 300
    assert best_possible_recall(boxes, anchors) == pytest.approx(reached / 300)


def test_clusters_that_were_planted_are_found() -> None:
    planted = np.array([[10, 12], [30, 90], [120, 40], [260, 250]], float)
    rng = np.random.default_rng(1)
    boxes = np.concatenate([centre * rng.normal(1, 0.04, (50, 2)) for centre in planted])
    found = cluster_sizes(boxes, 4, np.random.default_rng(2))
    found = found[np.argsort(found[:, 0])]
    np.testing.assert_allclose(found, planted[np.argsort(planted[:, 0])], rtol=0.05)


def test_anchors_that_reach_enough_stay() -> None:
    boxes = np.array(TINY).reshape(-1, 2) * 1.5
    fit = fit_anchors(boxes, TINY, seed=0)
    assert not fit.changed and fit.anchors_wh == TINY and fit.recall_before == 1.0
    assert "they stay" in describe(fit)


def test_elongated_objects_get_anchors_that_reach_them() -> None:
    boxes = elongated()
    fit = fit_anchors(boxes, TINY, seed=0)
    assert fit.changed and fit.recall_before < 0.5 and fit.recall_after > 0.98
    flat = np.array(fit.anchors_wh).reshape(-1, 2)
    assert best_possible_recall(boxes, flat) == fit.recall_after
    assert [len(level) for level in fit.anchors_wh] == [3, 3, 3]
    assert (np.diff(flat.prod(1)) >= 0).all()
    assert fit_anchors(boxes, TINY, seed=0) == fit
    assert f"{100 * fit.recall_after:.1f} %" in describe(fit)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_with_fewer_objects_than_anchors_nothing_is_changed(count: int) -> None:
    assert not fit_anchors(elongated(count), TINY, seed=0).changed


def test_equal_sizes_do_not_upset_the_clusters() -> None:
    fit = fit_anchors(np.full((50, 2), [300.0, 4.0]), TINY, seed=0)
    assert fit.changed and fit.recall_after == 1.0


def test_sizes_are_those_of_the_network_input() -> None:
    record = Record(
        Path("a.png"), "a", (100, 200), np.array([[0, 0, 50, 20], [0, 0, 1, 1]], np.float32), np.zeros(2, np.int64)
    )
    data = Dataset("d", "train", ("a",), [record], make_report("d", "train", ("a",), [record], ProblemLog()))
    np.testing.assert_allclose(letterboxed_sizes(data, (400, 400)), [[100, 40], [2, 2]])
    np.testing.assert_allclose(letterboxed_sizes(data, (200, 200)), [[50, 20]])
    np.testing.assert_allclose(letterboxed_sizes(data, (96, 200)), [[48, 19.2]])  # the height is what limits it
    assert fit_to_dataset("ppyoloe-s", data, (64, 64), start=None, seed=0) is None
    assert fit_to_dataset("yolov7-nano", data, (64, 64), start=None, seed=0) == models.anchors_of("yolov7-nano")


def save_nano(path: Path, anchors_wh: Anchors) -> torch.nn.Module:
    model = models.create("yolov7-nano", 2, anchors_wh=anchors_wh)
    spec = ModelSpec(
        name="yolov7-nano",
        activation=model.config.activation,
        class_names=("a", "b"),
        input=model.make_input_spec((64, 64)),
        decode=model.decode,
    )
    record = CheckpointRecord(model=spec, config=TrainConfig(model="yolov7-nano"), data="d", epoch=1)
    save_checkpoint(path, {f"model.{n}": t for n, t in model.state_dict().items()}, record)
    return model


def test_a_checkpoint_keeps_its_anchors(tmp_path: Path) -> None:
    anchors_wh = fit_anchors(elongated(), TINY, seed=0).anchors_wh
    model = save_nano(tmp_path / "best.safetensors", anchors_wh)
    loaded = load_checkpoint(tmp_path)
    assert loaded.model.decode == model.decode == loaded.record.model.decode
    assert loaded.model.decode.anchors_wh == anchors_wh
    criterion = loaded.model.make_criterion()
    assert criterion.decode.anchors_wh == anchors_wh
    assert msgspec.json.decode(msgspec.json.encode(loaded.record), type=CheckpointRecord) == loaded.record


def test_anchors_that_do_not_belong_to_the_model_are_refused() -> None:
    with pytest.raises(UsageError, match="has no anchors"):
        models.create("ppyoloe-s", 2, anchors_wh=TINY)
    with pytest.raises(UsageError, match="3, 3, 3 per level"):
        models.create("yolov7-nano", 2, anchors_wh=TINY[:2])
