from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.ema import EmaModel
from edgeyolo.training.optim import learning_rate_at, make_optimizer, set_schedule


def test_schedule_warms_up_then_follows_half_a_cosine() -> None:
    config = TrainConfig(
        model="yolov7-nano", epochs=100, learning_rate=1.0, warmup_epochs=3, final_learning_rate_factor=0.1
    )
    rates = [learning_rate_at(step, config, steps_per_epoch=10) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 30)
    assert max(rates) == pytest.approx(1.0) == rates[29]
    for step in (30, 400, 999):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 30) / 970)) / 2
        assert rates[step] == pytest.approx(expected)


def test_warmup_takes_at_most_a_tenth_of_a_short_run() -> None:
    config = TrainConfig(model="yolov7-nano", epochs=2, learning_rate=1.0)
    rates = [learning_rate_at(step, config, steps_per_epoch=10) for step in range(20)]
    assert rates.index(max(rates)) == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_convolution_and_linear_weights_decay(optimizer: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    decayed, plain = make_optimizer(model, TrainConfig(model="yolov7-nano", optimizer=optimizer)).param_groups
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert len(plain["params"]) == 4
    assert decayed["weight_decay"] > 0 == plain["weight_decay"]


def test_average_equals_the_recurrence_written_out() -> None:
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3)
    ema = EmaModel(model, decay=0.5)
    expected = model.weight.detach().clone().double()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.copy_(torch.randn(3))
            model.num_batches_tracked += 1
        ema.step(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(ema.average.weight.double(), expected, atol=1e-6, rtol=0)
    assert int(ema.average.num_batches_tracked) == 29


def test_a_line_can_take_the_place_of_the_cosine() -> None:
    config = TrainConfig(
        model="yolov7-nano", epochs=10, learning_rate=1.0, schedule="linear", final_learning_rate_factor=0.2
    )
    rates = [learning_rate_at(step, config, steps_per_epoch=10) for step in range(100)]
    assert rates[10] == pytest.approx(1.0)
    np.testing.assert_allclose(np.diff(rates[10:]), -0.8 / 90, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_biases_come_down_and_momentum_goes_up_while_warming_up(optimizer: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    config = TrainConfig(
        model="yolov7-nano",
        epochs=10,
        optimizer=optimizer,
        learning_rate=0.01,
        warmup_epochs=1,
        warmup_bias_learning_rate=0.1,
        warmup_momentum=0.5,
        momentum=0.9,
    )
    made = make_optimizer(model, config)
    decayed, plain, biases = made.param_groups
    assert [id(p) for p in biases["params"]] == [id(model[0].bias)] and len(plain["params"]) == 2
    seen = []
    for step in (0, 4, 9, 10, 50):
        set_schedule(made, step, config, steps_per_epoch=10)
        momentum = plain["momentum"] if optimizer == "sgd" else plain["betas"][0]
        seen.append((decayed["lr"], biases["lr"], momentum))
    assert seen[0] == pytest.approx((0.001, 0.001 + 0.1 * 0.9, 0.54))
    assert seen[1] == pytest.approx((0.005, 0.005 + 0.1 * 0.5, 0.7))
    assert seen[2] == pytest.approx((0.01, 0.01, 0.9)) == seen[3]
    assert seen[4][0] == seen[4][1] < 0.01
