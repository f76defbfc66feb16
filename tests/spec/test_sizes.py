"""Sizes as people write them, and what is none."""

from __future__ import annotations

import msgspec
import pytest

from edgeyolo.spec.deploying import DeployOptions
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.settings import check_settings, override_settings
from edgeyolo.spec.sizes import batch_of, image_hw_of, image_size_of
from edgeyolo.spec.training import TrainConfig

CONFIG = TrainConfig(model="m")


@pytest.mark.parametrize(
    ("written", "size", "image_hw"),
    [
        ("320", 320, (320, 320)),
        ("384x640", "384x640", (384, 640)),
        ("640x384", "640x384", (640, 384)),
        ("320x320", 320, (320, 320)),
    ],
)
def test_an_image_size_as_it_is_written_and_kept(written: str, size: int | str, image_hw: tuple[int, int]) -> None:
    config = override_settings(CONFIG, {"image_size": written})
    assert config.image_size == size and config.image_hw == image_hw_of(size) == image_hw
    assert image_size_of(image_hw) == size
    again = msgspec.json.decode(msgspec.json.encode(config), type=TrainConfig)
    assert again == config


@pytest.mark.parametrize("written", ["", "x", "384x", "384X640", "384 x 640", "-32", "31", "16x640", "1x2x3", "640.0"])
def test_what_is_no_image_size(written: str) -> None:
    with pytest.raises(UsageError, match="320 or 384x640"):
        override_settings(CONFIG, {"image_size": written})
    for wrong in (written, -1, 31):
        with pytest.raises(UsageError, match="image_size is"):
            check_settings(TrainConfig(model="m", image_size=wrong))
        with pytest.raises(UsageError, match="image_size is"):
            image_hw_of(wrong)


def test_a_batch_is_a_number_or_up_to_one() -> None:
    assert [batch_of(size) for size in (1, "4", "1-8", "1-1", 256)] == [(1, 1), (4, 4), (1, 8), (1, 1), (256, 256)]
    assert override_settings(DeployOptions(), {"batch": "1-1"}).batch == 1
    for wrong in (0, -4, "2-8", "1-", "8-1", "4x", "1-257", 257):
        with pytest.raises(UsageError, match="4 or 1-8"):
            check_settings(DeployOptions(batch=wrong))


def test_what_was_written_before_takes_one_picture() -> None:
    old = b'{"image_hw": [64, 96]}'
    assert msgspec.json.decode(old, type=InputSpec).batch == (1, 1)
