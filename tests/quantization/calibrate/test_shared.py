"""Two processes calibrate and score together, and find what one finds."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeyolo import models
from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization import calibration_pictures, quantize
from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.recipe import Recipe
from edgeyolo.training.distributed import find_world, joined
from edgeyolo.training.scoring import score_together
from edgeyolo.training.torch_session import TorchSession

OBSERVERS = ("max", "percentile", "entropy", "mse")
COUNT = 7  # four pictures for the first process, three for the second
CPU = torch.device("cpu")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


# What a process finds: "scales" by observer, "biases", the "score", and the "errors" that spoilt pictures bring.
Found = dict[str, Any]


def network(data: Dataset) -> tuple[nn.Module, ModelSpec]:
    torch.manual_seed(3)
    model = models.create("yolov7-nano", len(data.class_names)).eval()
    spec = ModelSpec(
        name="yolov7-nano",
        activation=model.config.activation,
        class_names=data.class_names,
        input=model.make_input_spec((64, 64)),
        decode=model.decode,
    )
    return model, spec


def find(folder: Path) -> Found:
    world, data = find_world(), open_dataset(folder, "train")
    model, spec = network(data)
    pictures, hashes = calibration_pictures(data, spec.input, COUNT)
    scales, biases = {}, []
    for observer in OBSERVERS:
        recipe = Recipe(title="", observer=observer, count=COUNT, bias_correction=observer == "mse")
        quantized = quantize(model, pictures, recipe, recipe_name="", picture_hashes=hashes)
        scales[observer] = quantized.scales
        assert quantized.calibration.count == COUNT
        if recipe.bias_correction:
            biases = [tensor for name, tensor in quantized.float_deploy.state_dict().items() if name.endswith("bias")]
    score = score_together(TorchSession(fold_model(model)), spec, data, world, artefact="float torch")
    errors = []
    for bad in (1, None):  # the picture of the second process, or no picture at all
        inputs = list(spoilt(pictures, bad)) if bad is not None else []
        try:
            quantize(model, inputs, Recipe(title="", observer="max"), recipe_name="", picture_hashes={})
        except EdgeYoloError as error:
            errors.append(f"{type(error).__name__} {error}")
    return {"scales": scales, "biases": biases, "score": score, "errors": errors}


def spoilt(pictures: Any, bad: int) -> Iterator[Tensor]:
    for number, picture in enumerate(pictures):
        yield picture * float("nan") if number == bad else picture


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found, Found]:
    """Of one process alone, and of two together."""
    folder = tmp_path_factory.mktemp("shared")
    draw_dataset(folder / "data", {"train": 9, "val": 2}, seed=1)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, __file__, str(folder)], env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    both = (pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2))
    return find(folder / "data"), *both


def test_scales_are_those_of_one_process_to_the_bit(three: tuple[Found, Found, Found]) -> None:
    alone, first, second = three
    assert first["scales"] == second["scales"]
    for observer in OBSERVERS:
        assert first["scales"][observer].weights == alone["scales"][observer].weights
        assert first["scales"][observer].groups == pytest.approx(alone["scales"][observer].groups, rel=1e-6)


def test_corrected_biases_are_those_of_one_process(three: tuple[Found, Found, Found]) -> None:
    alone, first, second = three
    assert len(alone["biases"]) > 10
    for mine, theirs, expected in zip(first["biases"], second["biases"], alone["biases"], strict=True):
        assert torch.equal(mine, theirs)
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)


def test_the_score_is_that_of_one_process_and_all_know_it(three: tuple[Found, Found, Found]) -> None:
    alone, first, second = three
    assert first["score"] == second["score"] == alone["score"]
    assert alone["score"].images == 9


def test_what_is_wrong_on_one_process_ends_all_with_its_message(three: tuple[Found, Found, Found]) -> None:
    alone, first, second = three
    assert "not finite" in alone["errors"][0] and second["errors"][0] == alone["errors"][0]
    assert first["errors"][0].startswith("TrainingError") and "process 1 of 2 has failed" in first["errors"][0]
    assert "not finite" in first["errors"][0]
    assert first["errors"][1] == second["errors"][1] == alone["errors"][1] and "no pictures" in alone["errors"][1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    with joined(find_world(), CPU):
        (place / f"{find_world().rank}.pickle").write_bytes(pickle.dumps(find(place / "data")))
