"""Trainings of small models at defaults, which several tables are made of: each is done once."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from record import claim_folder, load_reusable, save_result

from edgeyolo import models, verbs
from edgeyolo.spec.training import TrainConfig

SPLITS = ("val", "test")
SMALL = (
    "yolov7-nano",
    "yolov7-tiny",
    "ppyoloe-s",
    "yolox-nano",
    "yolox-tiny",
    "yolov5n",
    "yolov6n",
    "yolov8n",
    "damo-ns",
)
_SCRIPTS = ("small_runs",)


@dataclasses.dataclass(frozen=True)
class SmallRun:
    """A training of a model at defaults, whose weights are those of the last epoch's average.

    Attributes:
        dataset: short name of what it is trained on.
        balance: "ours" or "published", as `little.py` says.
    """

    dataset: str
    model: str
    seed: int
    epochs: int = 60
    image_size: int = 320
    balance: str = "ours"

    def folder(self, out: Path) -> Path:
        """Where the run is, or will be."""
        return out / f"{self.dataset}-{self.model}-{self.balance}-{self.seed}"


def train_small(run: SmallRun, data: Path, out: Path) -> dict[str, Any]:
    """Train it, go on with it, or read what an earlier call found: AP and AP50 by split, seconds of the processor."""
    settings = dataclasses.asdict(run)
    folder = claim_folder(run.folder(out), scripts=_SCRIPTS, **settings)
    if earlier := load_reusable(folder / "trained.json", scripts=_SCRIPTS, **settings):
        return {key: value for key, value in earlier.items() if key != "record"}
    config = make_config(run.model, run.seed, run.epochs, run.image_size)
    started = time.process_time()
    result = verbs.train(config, data, folder, resume=(folder / "last.safetensors").exists(), report=False)
    seconds = time.process_time() - started
    scores = {split: verbs.evaluate(result.last, data, split=split) for split in SPLITS}
    found = {
        **settings,
        "parameters": models.measure_model(run.model).parameters_deploy,
        "ap": {split: score.ap for split, score in scores.items()},
        "ap50": {split: score.ap50 for split, score in scores.items()},
        "seconds": round(seconds, 1),
    }
    save_result(folder / "trained.json", found, scripts=_SCRIPTS)
    return found


def make_config(model: str, seed: int, epochs: int, image_size: int) -> TrainConfig:
    """Defaults, but for how long, how large, and that the score is asked for once."""
    return TrainConfig(model=model, seed=seed, epochs=epochs, image_size=image_size, workers=0, evaluate_every=epochs)
