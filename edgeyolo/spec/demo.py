"""Options of `demo`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgeyolo.spec.settings import Count, WholeNumber


class DemoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the demo draws and trains.

    Attributes:
        epochs: passes over the drawn pictures.
        pictures: training pictures; val and test are a third each.
        seed: seed of the pictures and the training.
    """

    epochs: Count = 24
    pictures: Annotated[int, Meta(ge=16)] = 72
    seed: WholeNumber = 0
