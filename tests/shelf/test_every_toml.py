"""Guests on the shelves: every target and every recipe is valid, usable and says where its numbers are from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edgeyolo.spec.errors import FormatError, UnknownNameError
from edgeyolo.spec.recipe import list_recipes, load_recipe
from edgeyolo.spec.target import list_targets, load_target

ROOT = Path(__file__).parents[2]


def test_the_folder_is_the_registry() -> None:
    assert list_targets() == sorted(path.stem for path in (ROOT / "targets").iterdir())
    assert list_recipes() == sorted(path.stem for path in (ROOT / "calib").iterdir())
    assert list_targets()
    assert list_recipes()


@pytest.mark.parametrize("name", list_targets())
def test_target(name: str) -> None:
    target = load_target(name)
    assert target.title
    assert importlib.util.find_spec(f"edgeyolo.backends.{target.engine}") is not None
    assert target.precisions
    assert len(set(target.precisions)) == len(target.precisions)
    assert target.threads >= 0
    assert target.memory_mib >= 0
    assert set(target.sources) <= set(type(target).__struct_fields__)
    numbers = {"cpu_features", "engine_options", "memory_mib", "gpu_compute_capability", "dla_cores"}
    for field in sorted(numbers):
        if getattr(target, field):
            assert field in target.sources, f"{field} has no source"


@pytest.mark.parametrize("name", list_recipes())
def test_recipe(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.title
    assert recipe.count > 0
    assert recipe.bins >= 128
    assert recipe.weight_bits in (6, 8)


def test_a_path_is_read_as_well_as_a_name(tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text('title = "Mine"\nengine = "ncnn"\nprecisions = ["int8"]\n')
    assert load_target(str(path)).title == "Mine"


def test_wrong_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text('title = "Mine"\nengine = "ncnn"\nprecision = ["int8"]\n')
    with pytest.raises(FormatError, match="Did you mean 'precisions'"):
        load_target(str(path))


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'raspberry-pi-5'"):
        load_target("rasberry-pi5")
