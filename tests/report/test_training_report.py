"""The report of a training: whole, self-contained, right in its numbers, and there also when nothing was learned."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from edgeyolo import models
from edgeyolo.data.dataset import Dataset, Record, make_report, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.data.report import ProblemLog
from edgeyolo.evaluation.curves import Curves
from edgeyolo.nn.fold import fold_model
from edgeyolo.report import training_plots as plots
from edgeyolo.report.labels import count_labels
from edgeyolo.report.training import first_batches, measure, write_training_report
from edgeyolo.report.training_pictures import choose_pictures, draw_batches, draw_truth_and_found, judge
from edgeyolo.runtime.draw import class_colour
from edgeyolo.spec.detections import Detections
from edgeyolo.spec.model import InputSpec, ModelSpec
from edgeyolo.spec.training import AugmentConfig, TrainConfig
from edgeyolo.training import train as train_model
from edgeyolo.training.checkpoint import CheckpointRecord, EpochRow
from edgeyolo.training.loader import make_loader
from edgeyolo.training.order import EpochOrder
from edgeyolo.training.torch_session import TorchSession
from edgeyolo.verbs._train_report import report_training

PLOTS = ("losses", "ap", "precision_recall", "f1", "confusion", "labels", "batches")
NASTY = ("<b>$x_{</b>", "_hidden", "\N{CJK UNIFIED IDEOGRAPH-732B}")


class Page(HTMLParser):
    """Rows of each table by id, sources of images, and that every tag closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.sources: list[str] = []
        self.table = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        if tag == "table":
            self.table = values["id"] or ""
            self.rows[self.table] = []
        if tag == "tr":
            self.rows[self.table].append([])
        if tag in ("td", "th"):
            self.rows[self.table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if any(tag in ("td", "th") for tag in self.open):
            self.rows[self.table][-1][-1] += data.strip()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"train": 6, "val": 3, "test": 1}, image_hw=(96, 96), seed=2)
    return open_dataset(folder, "train"), open_dataset(folder, "val")


def make_record(class_names: tuple[str, ...], epochs: int = 2) -> tuple[CheckpointRecord, TorchSession]:
    torch.manual_seed(0)
    model = models.create("yolov7-nano", len(class_names)).eval()
    spec = ModelSpec(
        name="yolov7-nano",
        activation=model.config.activation,
        class_names=class_names,
        input=model.make_input_spec((64, 96)),
        decode=model.decode,
    )
    config = TrainConfig(model="yolov7-nano", epochs=epochs, image_size="64x96", batch=4)
    rows = [
        EpochRow(
            epoch=i,
            losses={"box": 1 / i, "total": 2 / i},
            learning_rate=1e-3,
            seconds=2.0,
            ap=None if i == 1 and epochs > 1 else 12.5,
            ap50=None if i == 1 and epochs > 1 else 30.0,
        )
        for i in range(1, epochs + 1)
    ]
    record = CheckpointRecord(
        model=spec, config=config, data="drawn", epoch=epochs, best_ap=12.5, best_epoch=epochs, history=tuple(rows)
    )
    return record, TorchSession(fold_model(model))


def without_objects(data: Dataset) -> Dataset:
    records = [Record(r.image_path, r.image_id, r.image_hw, r.boxes_xyxy[:0], r.class_ids[:0]) for r in data.records]
    report = make_report(data.name, data.split, data.class_names, records, ProblemLog())
    return Dataset(data.name, data.split, data.class_names, records, report)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_page_is_whole_and_loads_nothing(drawn: tuple[Dataset, Dataset], tmp_path: Path, epochs: int) -> None:
    train, val = drawn
    record, session = make_record(train.class_names, epochs)
    path = write_training_report(
        tmp_path, record=record, session=session, train_data=train, val_data=val, batches=first_batches(record, train)
    )
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"<script|@import|url\(", text)
    assert all(
        source.startswith(("data:image/png;base64,iVBOR", "data:image/jpeg;base64,/9j/")) for source in page.sources
    )
    assert len(page.sources) == len(PLOTS) + 3  # all validation pictures
    for name in PLOTS:
        image = cv2.imread(str(tmp_path / "plots" / f"{name}.png"))
        assert image is not None and image.std() > 5, name
    score = measure(session, record, val).score
    assert f"AP {score.ap:.2f}, AP50 {score.ap50:.2f} on 3 pictures" in text
    counts = np.bincount(np.concatenate([r.class_ids for r in train.records]), minlength=6)
    assert [row[1] for row in page.rows["classes"][1:]] == [str(n) for n in counts]
    assert len(page.rows["epochs"]) == epochs + 1
    assert ["augment.mosaic", "1.0"] in page.rows["config"]


def test_names_of_every_kind_and_splits_without_objects(drawn: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    train, val = (without_objects(data) for data in drawn)
    train, val = (renamed(data, NASTY) for data in (train, val))
    record, session = make_record(NASTY)
    batches = first_batches(record, train)
    path = write_training_report(
        tmp_path, record=record, session=session, train_data=train, val_data=val, batches=batches
    )
    text = path.read_text(encoding="utf-8")
    assert "<b>" not in text and "&lt;b&gt;" in text
    assert Page(text).rows["classes"][1][1:] == ["0", "0", "-", "-", "-", "-"]
    assert "(3 without objects)" in " ".join(text.split())


def renamed(data: Dataset, names: tuple[str, ...]) -> Dataset:
    return Dataset(data.name, data.split, names, data.records, data.report)


def test_the_first_batches_are_those_of_the_run(drawn: tuple[Dataset, Dataset]) -> None:
    train, _ = drawn
    record, _ = make_record(train.class_names)
    config = msgspec.structs.replace(record.config, seed=3, batch=3, augment=AugmentConfig(mosaic=0.5))
    record = msgspec.structs.replace(record, config=config)
    loader = make_loader(
        train, EpochOrder(len(train), 3, 3), input_spec=InputSpec(image_hw=(64, 96)), augment=config.augment
    )
    loader.start_epoch(0)
    for mine, theirs in zip(first_batches(record, train, count=6), loader, strict=True):
        assert torch.equal(mine.images, theirs.images) and torch.equal(mine.targets, theirs.targets)
    assert len(first_batches(record, train, count=2)) == 1


def test_label_statistics_are_plain_counts() -> None:
    boxes = np.array([[0, 0, 20, 20], [100, 0, 200, 50], [0, 60, 200, 100], [0, 0, 97, 96]], np.float32)
    records = [
        Record(Path("a"), "a", (100, 200), boxes, np.array([0, 0, 2, 2])),
        Record(Path("b"), "b", (10, 10), boxes[:0], np.zeros(0, np.int64)),
    ]
    names = ("x", "y", "z")
    data = Dataset("d", "train", names, records, make_report("d", "train", names, records, ProblemLog()))
    found = count_labels(data, (400, 400))
    assert found.class_counts.tolist() == [2, 0, 2] and (found.pictures, found.empty) == (2, 1)
    assert found.size_counts == {"small": 1, "medium": 2, "large": 1}
    np.testing.assert_allclose(found.sides_px[:2], [[40, 40], [200, 100]])
    assert found.centres.sum() == 4
    assert found.centres[int(0.1 * 32), int(0.05 * 32)] == 1 and found.centres[int(0.8 * 32), int(0.5 * 32)] == 1


def detections(boxes: list[list[float]], classes: list[int]) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(count, 0.9, np.float32), np.array(classes, int)
    )


def test_mistakes_are_counted_and_the_worst_pictures_come_first() -> None:
    truth = np.array([[0, 0, 40, 40], [60, 0, 100, 40], [0, 60, 40, 100]], np.float32)
    record = Record(Path("a"), "a", (100, 100), truth, np.array([0, 1, 1]))
    outcome = judge(4, detections([[0, 0, 40, 40], [60, 0, 100, 40], [60, 60, 90, 90]], [0, 0, 2]), record)
    assert (outcome.right, outcome.confused, outcome.missed, outcome.extra) == (1, 1, 1, 1)
    assert outcome.mistakes == 3 and outcome.caption.startswith("3 objects: 1 right, 1 taken")
    perfect = [judge(i, detections(truth.tolist(), [0, 1, 1]), record) for i in range(10)]
    chosen = choose_pictures([*perfect[:4], outcome, *perfect[5:]], worst=3, others=3)
    assert [o.index for o in chosen] == [4, 0, 3, 7]


def test_a_frame_is_around_what_is_wrong_and_only_there() -> None:
    truth = np.array([[10, 10, 50, 50], [100, 100, 150, 150]], np.float32)
    record = Record(Path("a"), "a", (200, 200), truth, np.array([0, 1]))
    image = np.full((200, 200, 3), 114, np.uint8)
    found = detections([[10, 10, 50, 50], [120, 20, 160, 60]], [0, 1])
    pair = draw_truth_and_found(image, record, found, ("x", "y"))
    assert pair.shape == (226, 406, 3)

    def is_framed(half: np.ndarray, box: np.ndarray) -> bool:
        x1, y1, _, y2 = box.astype(int)
        column = half[(y1 + y2) // 2, max(0, x1 - 6) : x1]
        return bool((column == 20).all(1).any())

    left, right = pair[26:, :200], pair[26:, 206:]
    assert [is_framed(left, box) for box in truth] == [False, True]
    assert [is_framed(right, box) for box in found.boxes_xyxy] == [False, True]
    assert (left[30, 10] == class_colour(0)).all() and (left[125, 100] == class_colour(1)).all()


def test_batches_are_laid_out_in_rows() -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    box = np.array([[10, 10, 60, 40]], np.float32)
    canvas = draw_batches([image] * 5, [(box, np.array([1]))] * 5, columns=3)
    assert canvas.shape == (2 * 150 + 6, 3 * 300 + 12, 3)
    assert (canvas[30, 40] == class_colour(1)).all() and (canvas[30 + 156, 40 + 306] == class_colour(1)).all()
    assert (canvas[-1, -1] == 255).all()


def test_plots_of_many_classes() -> None:
    rng = np.random.default_rng(0)
    for classes in (30, 90):
        names = [f"class {i}" for i in range(classes)]
        curves = Curves(rng.random((classes, 101)), rng.random((classes, 101)))
        matrix = rng.integers(0, 100, (classes + 1, classes + 1))
        for png in (
            plots.draw_precision_recall(curves, names),
            plots.draw_f1(curves, names),
            plots.draw_confusion(matrix, names),
        ):
            assert png.startswith(b"\x89PNG")


def test_a_run_gets_its_page(drawn: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    config = TrainConfig(model="yolov7-nano", epochs=1, image_size=64, batch=4, workers=0, device="cpu", cache_mib=16)
    result = train_model(config, drawn, tmp_path)
    page = report_training(result, *drawn)
    assert page == tmp_path / "train.html" and result.score is not None
    assert f"AP {result.score.ap:.2f}, AP50 {result.score.ap50:.2f} on 3 pictures" in page.read_text(encoding="utf-8")


def test_curves_of_a_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first epoch already, where a loss part came later, and nothing without matplotlib."""
    first = EpochRow(epoch=1, losses={"total": 2.0, "box": 1.5}, learning_rate=0.01, seconds=3.0)
    later = EpochRow(epoch=2, losses={"total": 1.0, "box": 0.5, "$x": 0.1}, learning_rate=0.01, seconds=3.0, ap=40.0)
    for history in ([first], [first, later]):
        plots.write_curves(tmp_path / "curves.png", history)
        assert cv2.imread(str(tmp_path / "curves.png")) is not None
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plots.write_curves(tmp_path / "none.png", [first])
    assert not (tmp_path / "none.png").exists()
