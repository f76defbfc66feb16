"""A second run is instant, and whatever changes makes a new one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeyolo.quantization import Quantized, quantize
from edgeyolo.quantization.calibrate.cache import CalibrationCache, digest_of_graph
from edgeyolo.spec.model import DflDecode, InputSpec
from edgeyolo.spec.recipe import QatRecipe, Recipe

INPUT = InputSpec(image_hw=(32, 32))
RECIPE = Recipe(title="", observer="mse", count=3)
HASHES = {"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}


class Net(nn.Module):
    def __init__(self, slope: float = 0.1, stride: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, stride, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.act = nn.LeakyReLU(slope)
        self.register_buffer("offset", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.head(self.act(self.body(self.act(self.stem(x) + self.offset))))]


class Pictures:
    """Says how often it was read."""

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Tensor]:
        self.read += 1
        generator = torch.Generator().manual_seed(5)
        yield from (torch.rand(1, 3, 32, 32, generator=generator) for _ in range(3))


def run(folder: Path, recipe: Recipe = RECIPE, pictures: Pictures | None = None) -> Quantized:
    cache = CalibrationCache(INPUT, folder)
    return quantize(Net(), pictures or Pictures(), recipe, recipe_name="r", picture_hashes=HASHES, cache=cache)


@pytest.mark.parametrize("corrections", [False, True])
def test_the_second_run_reads_no_picture_and_gives_the_same(tmp_path: Path, corrections: bool) -> None:
    recipe = msgspec.structs.replace(RECIPE, bias_correction=corrections, equalize=corrections)
    pictures = Pictures()
    first = run(tmp_path, recipe, pictures)
    assert pictures.read == 1 + corrections
    second = run(tmp_path, recipe, pictures)
    assert pictures.read == 1 + corrections
    assert second.scales == first.scales
    assert second.calibration == first.calibration
    x = torch.rand(1, 3, 32, 32)
    for name in ("fake_quant", "float_deploy", "reference"):
        with torch.no_grad():
            assert torch.equal(getattr(first, name)(x)[0], getattr(second, name)(x)[0]), name


def test_everything_that_matters_is_in_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And titles, QAT settings and how pictures were drawn are not."""
    cache, deploy = CalibrationCache(INPUT), fx.symbolic_trace(Net())
    key = cache.make_key(deploy, HASHES, RECIPE)
    assert cache.make_key(fx.symbolic_trace(Net()), dict(HASHES), RECIPE) == key
    indifferent = {"title": "other", "count": 9, "seed": 4, "qat": QatRecipe(epochs=3)}
    for field, value in indifferent.items():
        assert (
            cache.make_key(deploy, HASHES, msgspec.structs.replace(RECIPE, **{field: value})).digest() == key.digest()
        )

    matters = {
        "observer": "max", "bins": 1024, "percentile": 99.0, "clipping_weight": 1.0, "weight_observer": "mse",
        "weight_bits": 7, "weight_bits_3x3": 6, "equalize": True, "bias_correction": True, "float_error": 0.5,
        "depthwise": True, "float_layers": ("stem",),
    }  # fmt: skip
    assert {*indifferent, *matters} == set(Recipe.__struct_fields__)
    recipes = [msgspec.structs.replace(RECIPE, **{field: value}) for field, value in matters.items()]
    keys = [key, *(cache.make_key(deploy, HASHES, recipe) for recipe in recipes)]
    keys.append(cache.make_key(deploy, dict(reversed(HASHES.items())), RECIPE))
    keys.append(cache.make_key(deploy, HASHES, RECIPE, DflDecode(strides=(8,), bins=2)))
    keys.append(cache.make_key(deploy, HASHES | {"c": "4" * 64}, RECIPE))
    for changed in (InputSpec(image_hw=(64, 32)), InputSpec(image_hw=(32, 32), letterbox_value=0)):
        keys.append(CalibrationCache(changed).make_key(deploy, HASHES, RECIPE))
    monkeypatch.setattr("edgeyolo.__version__", "999")
    keys.append(cache.make_key(deploy, HASHES, RECIPE))
    monkeypatch.setattr("edgeyolo.quantization.calibrate.cache._PACKAGE", tmp_path)
    for code in ("a = 1", "a = 2"):
        (tmp_path / "module.py").write_text(code)
        keys.append(cache.make_key(deploy, HASHES, RECIPE))
    assert len({key.digest() for key in keys}) == len(keys)


def test_the_digest_of_a_graph_sees_weights_buffers_settings_and_code() -> None:
    def changed(name: str) -> fx.GraphModule:
        deploy = fx.symbolic_trace(Net())
        with torch.no_grad():
            deploy.get_buffer(name).add_(1e-7) if name == "offset" else deploy.get_parameter(name)[0].mul_(1.001)
        return deploy

    class Other(Net):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [F.relu(super().forward(x)[0])]

    graphs = [
        fx.symbolic_trace(Net()),
        changed("head.bias"),
        changed("stem.weight"),
        changed("offset"),
        fx.symbolic_trace(Net(slope=0.2)),
        fx.symbolic_trace(Net(stride=1)),
        fx.symbolic_trace(Other()),
    ]
    assert len({digest_of_graph(graph) for graph in graphs}) == len(graphs)
    assert digest_of_graph(graphs[0]) == digest_of_graph(fx.symbolic_trace(Net()))


def damage(path: Path, how: str) -> None:
    raw = path.read_bytes()
    if how == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "binary":
        path.write_bytes(b"\xff" * 100)
    else:
        content = json.loads(raw)
        if how == "scale":
            content["calibration"]["scales"]["groups"]["g0"] *= 1.5
        elif how == "of another":
            content["key"]["deploy_sha256"] = "0" * 64
        else:
            content["unknown"] = 1
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("how", ["cut", "empty", "binary", "scale", "of another", "unknown key"])
def test_a_damaged_entry_is_ignored_with_a_warning_and_written_again(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(tmp_path).scales
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    damage(path, how)
    pictures = Pictures()
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path, pictures=pictures).scales == expected
    assert pictures.read == 1
    assert "cached calibration" in caplog.text
    assert path.name in caplog.text
    assert path.read_bytes() == good
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path / "file" / "inside").scales.groups
    assert "not kept for the next run" in caplog.text


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
def test_an_entry_that_can_only_be_read_is_used(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder of others, or an entry that another process prunes just then: its time cannot be set."""
    expected = run(tmp_path).scales

    def refuse(path: Path) -> None:
        raise error(1, "no", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    pictures = Pictures()
    assert run(tmp_path, pictures=pictures).scales == expected
    assert pictures.read == 0


def test_pictures_without_hashes_are_not_kept(tmp_path: Path) -> None:
    cache = CalibrationCache(INPUT, tmp_path)
    quantize(Net(), Pictures(), RECIPE, recipe_name="", picture_hashes={"a": "1" * 64}, cache=cache)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_keeps_the_latest_64(tmp_path: Path) -> None:
    for number in range(70):
        path = tmp_path / f"old-{number}.json"
        path.touch()
        os.utime(path, (1000 + number, 1000 + number))
    run(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 64
    assert "old-69.json" in names
    assert "old-6.json" not in names


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path))
    assert CalibrationCache(INPUT).folder == tmp_path / "calibration"
    monkeypatch.delenv("EDGEYOLO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CalibrationCache(INPUT).folder == tmp_path / "edgeyolo" / "calibration"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert CalibrationCache(INPUT).folder == Path.home() / ".cache" / "edgeyolo" / "calibration"
