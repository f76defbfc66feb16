from __future__ import annotations

import pytest

from edgeyolo.spec.errors import UnknownNameError, UsageError
from edgeyolo.spec.settings import override_settings
from edgeyolo.spec.training import TrainConfig
from edgeyolo.training.config import check_config


def test_overrides_reach_fields_and_sections() -> None:
    config = override_settings(
        TrainConfig(model="m"), {"ema_decay": "0.9", "augment.mosaic": "0", "learning_rate": "0.1"}
    )
    assert (config.ema_decay, config.augment.mosaic, config.learning_rate) == (0.9, 0.0, 0.1)


def test_an_unknown_setting_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'augment\.mosaic'"):
        override_settings(TrainConfig(model="m"), {"augment.mosiac": "1"})


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(UsageError, match="epochs"):
        override_settings(TrainConfig(model="m"), {"epochs": "many"})


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch": -1}, {"image_size": 16}, {"learning_rate": -1.0}, {"ema_decay": 1.0}]
)
def test_unusable_values_name_the_field(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(change)).split("_")[0]):
        check_config(TrainConfig(model="yolov7-nano", **change))


def test_a_list_is_written_with_commas() -> None:
    config = override_settings(TrainConfig(model="m"), {"freeze": "backbone,neck.up", "multi_scale": "0.5"})
    assert config.freeze == ("backbone", "neck.up") and config.multi_scale == 0.5


@pytest.mark.parametrize(
    "change", [{"multi_scale": 0.95}, {"class_balance": -0.1}, {"label_smoothing": 1.0}, {"momentum": 1.0}]
)
def test_parts_are_parts(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        check_config(TrainConfig(model="yolov7-nano", **change))
