"""The folder of families is the registry: a module or a package put there is found, and nothing else must be told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeyolo import models
from edgeyolo.models import _registry
from edgeyolo.spec.errors import UnknownNameError, UsageError

MODULE = """
import dataclasses
from edgeyolo.models.yolov7 import VARIANTS as YOLOV7, Network

VARIANTS = {"guest": dataclasses.replace(YOLOV7["yolov7-nano"], name="guest", image_size=64)}
"""


@pytest.fixture
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A second folder of families."""
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    _registry.families.cache_clear()
    yield tmp_path
    _registry.families.cache_clear()


@pytest.mark.parametrize("place", ["a_module.py", "a_package/__init__.py"])
def test_a_family_is_a_module_or_a_package(guests: Path, place: str) -> None:
    path = guests / place
    path.parent.mkdir(exist_ok=True)
    name = place.partition(".")[0].partition("/")[0]
    path.write_text(MODULE.replace("guest", name))
    (guests / "_not_a_family.py").write_text("raise AssertionError")
    assert name in models.model_names()
    assert models.create(name, 3).config.image_size == 64
    info = next(info for info in models.list_models() if info.name == name)
    assert (info.family, info.licence) == (name, "none published")
    with pytest.raises(UsageError, match="no weights are published"):
        models.load_pretrained(name, "x.pt")


def test_without_its_guests_the_registry_is_as_before(guests: Path) -> None:
    assert "a_module" not in models.model_names()
    with pytest.raises(UnknownNameError):
        models.create("a_package", 3)
