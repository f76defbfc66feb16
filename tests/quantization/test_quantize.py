"""The door: good input, one picture, black pictures, and everything that must be refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo import backends, models
from edgeyolo.export import export_model
from edgeyolo.quantization import Quantized, find_placement, quantize
from edgeyolo.quantization.calibrate.ranges import trace_deploy_form
from edgeyolo.spec.errors import QuantizationError, UnknownNameError, UsageError
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.recipe import Recipe, list_recipes, load_recipe
from edgeyolo.spec.target import Target

OBSERVERS = ["max", "percentile", "entropy", "mse"]
MAX = Recipe(title="", observer="max", count=4)


class Tiny(nn.Module):
    """Three hidden layers and a head; the second and third read one tensor."""

    def __init__(self, outputs: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(16, outputs, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.leaky_relu(self.stem(x), 0.1)
        return [self.head(torch.cat([F.leaky_relu(self.left(x), 0.1), F.leaky_relu(self.right(x), 0.1)], 1))]


def pictures(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(1, 3, 32, 32, generator=generator) for _ in range(count)]


def run(model: nn.Module, inputs: list[Tensor], recipe: Recipe = MAX) -> Quantized:
    return quantize(model, inputs, recipe, recipe_name="test", picture_hashes={"a": "0" * 64})


def test_scales_are_the_largest_magnitudes_over_all_pictures() -> None:
    model, inputs = Tiny().eval(), pictures()
    quantized = run(model, inputs)
    with torch.no_grad():
        stem = torch.cat([F.leaky_relu(model.stem(x), 0.1) for x in inputs])
    expected = [float(torch.cat(inputs).abs().max()) / 127, float(stem.abs().max()) / 127]
    assert list(quantized.scales.groups.values()) == pytest.approx(expected, rel=1e-5)
    assert set(quantized.scales.weights) == {"stem", "left", "right"}
    record = quantized.calibration
    assert (record.recipe, record.method, record.count, record.pictures) == ("test", "ptq", 4, {"a": "0" * 64})


def test_batches_and_arrays_are_the_same_as_single_pictures() -> None:
    inputs, recipe = pictures(4), Recipe(title="", observer="mse", count=4)
    single = run(Tiny(), inputs, recipe)
    batched = run(Tiny(), [torch.cat(inputs[:3]), inputs[3]], recipe)
    arrays = quantize(Tiny(), [x.numpy() for x in inputs], recipe, recipe_name="", picture_hashes={})
    assert single.scales.groups == pytest.approx(batched.scales.groups, rel=1e-5)
    assert single.scales == arrays.scales
    assert batched.calibration.count == 4


def test_each_tensor_is_seen_once_however_many_layers_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeyolo.quantization.calibrate import observers

    seen: list[int] = []
    collect: Callable[..., None] = observers.MaxObserver.collect
    monkeypatch.setattr(
        observers.MaxObserver, "collect", lambda self, x, largest: (seen.append(x.numel()), collect(self, x, largest))
    )
    run(Tiny(), pictures(1))
    assert seen == [3 * 32 * 32, 8 * 16 * 16]


@pytest.mark.parametrize("name", [name for name in list_recipes() if not load_recipe(name).float_layers])
def test_the_recipes_on_the_shelf_give_a_usable_model(name: str) -> None:
    """The fake-quantized map stays near the float one: 5 % of its spread, on the mean."""
    model, inputs = Tiny().eval(), pictures()
    quantized = run(model, inputs, load_recipe(name))
    with torch.no_grad():
        found, expected = quantized.fake_quant(inputs[0])[0], model(inputs[0])[0]
    spread = (expected - expected.mean((0, 2, 3), keepdim=True)).abs().mean()
    assert 0.0 < float((found - expected).abs().mean() / spread) < 0.05


def test_progress_is_told_in_pictures() -> None:
    class Bar:
        def __init__(self) -> None:
            self.steps: list[tuple[str, int, int]] = []

        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            self.steps.append((stage, done, total))

    bar = Bar()
    quantize(Tiny(), pictures(6), MAX, recipe_name="", picture_hashes={}, progress=bar)
    quantize(Tiny(), iter(pictures(2)), MAX, recipe_name="", picture_hashes={}, progress=bar)
    assert bar.steps == [("calibrate", 4, 6), ("calibrate", 6, 6), ("calibrate", 2, 4)]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_one_picture_is_enough_and_says_so(observer: str, caplog: pytest.LogCaptureFixture) -> None:
    recipe = Recipe(title="", observer=observer)
    with caplog.at_level(logging.WARNING):
        run(Tiny(), pictures(2), recipe)
        assert caplog.text == ""
        assert run(Tiny(), pictures(1), recipe).calibration.count == 1
    assert "calibrated on one picture only" in caplog.text


@pytest.mark.parametrize("observer", OBSERVERS)
def test_black_pictures_have_no_range_and_warn(observer: str, caplog: pytest.LogCaptureFixture) -> None:
    recipe = Recipe(title="", observer=observer, bias_correction=True, equalize=True)
    with caplog.at_level(logging.WARNING):
        black = run(Tiny(), [torch.zeros(1, 3, 32, 32)] * 2, recipe)
    assert "1 of 2 scale groups (g0)" in caplog.text
    assert black.scales.groups["g0"] == pytest.approx(1 / 127)
    assert np.isfinite(black.fake_quant(torch.rand(1, 3, 32, 32))[0].detach().numpy()).all()


class Doubled(Tiny):
    """With a function of its user's that nobody knows."""

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.leaky_relu(self.stem(x), 0.1)
        return [self.head(torch.cat([torch.special.erf(self.left(x)), self.right(torch.special.erf(x))], 1))]


def test_an_unsupported_operator_is_named_and_what_reads_it_stays_float(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        quantized = run(Doubled(), pictures(2))
    assert "unsupported operator" in caplog.text
    assert "erf" in caplog.text
    assert quantized.placement.int8_layers() == ["stem", "left"]
    assert "erf" in quantized.placement.layers["right"].why
    assert np.isfinite(quantized.fake_quant(pictures(1)[0])[0].detach().numpy()).all()


def test_no_pictures_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(QuantizationError, match="no pictures"):
        run(Tiny(), [])
    for wrong in (torch.rand(3, 32, 32), torch.rand(1, 1, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(QuantizationError, match="not \\(B, 3, H, W\\) float32"):
            run(Tiny(), [wrong])


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_name_the_layer(poison: float) -> None:
    model = Tiny()
    with torch.no_grad():
        model.stem.bias[2] = poison
    with pytest.raises(QuantizationError, match=r"left.*not finite"):
        run(model, pictures(1))
    spoilt = pictures(1)
    spoilt[0][0, 1, 2, 3] = poison
    with pytest.raises(QuantizationError, match="stem"):
        run(Tiny(), spoilt)


@pytest.mark.parametrize("weight_observer", ["max", "mse"])
def test_a_dead_channel_gives_finite_scales_and_maps(weight_observer: str) -> None:
    model = Tiny()
    with torch.no_grad():
        model.left.weight[3] = 0.0
        model.stem.weight[2] = 0.0
    recipe = Recipe(title="", weight_observer=weight_observer, equalize=True, bias_correction=True)
    quantized = run(model, pictures(2), recipe)
    assert quantized.scales.weights["left"][3] == max(quantized.scales.weights["left"])
    assert bool(torch.isfinite(quantized.fake_quant(pictures(1)[0])[0]).all())


def test_float_layers_of_a_recipe() -> None:
    kept = run(Tiny(), pictures(1), Recipe(title="", observer="max", float_layers=("le*",)))
    assert kept.placement.int8_layers() == ["stem", "right"]
    with pytest.raises(UnknownNameError, match=r"'lfet'.*Did you mean 'left'"):
        run(Tiny(), pictures(1), Recipe(title="", observer="max", float_layers=("lfet",)))
    with pytest.raises(QuantizationError, match="no layer is left"):
        run(Tiny(), pictures(1), Recipe(title="", observer="max", float_layers=("*",)))


def test_wrong_settings_of_a_recipe_name_the_field() -> None:
    for field, value in (("bins", 3), ("percentile", 0.0), ("weight_bits", 9), ("weight_bits_3x3", 1)):
        recipe = msgspec.structs.replace(Recipe(title="", observer="percentile"), **{field: value})
        with pytest.raises(UsageError, match=f"recipe: {field} is"):
            run(Tiny(), pictures(1), recipe)


def test_the_reference_is_what_was_given_and_the_rest_what_ships() -> None:
    model, inputs = Tiny().eval(), pictures()
    plain = run(model, inputs)
    assert plain.reference is plain.float_deploy
    changed = run(model, inputs, Recipe(title="", observer="max", bias_correction=True, weight_bits=5))
    with torch.no_grad():
        assert torch.equal(changed.reference(inputs[0])[0], model(inputs[0])[0])
    for name, value in changed.float_deploy.named_parameters():
        assert torch.equal(value, changed.fake_quant.get_parameter(name))
    assert not torch.equal(changed.float_deploy.get_parameter("left.bias"), model.left.bias)


def test_six_bit_weights_are_the_same_in_the_exported_graph(tmp_path: Path) -> None:
    """Fake quantization against ONNX Runtime and NCNN on what `export_model` writes: 3x3 at 6 bits, the rest at 8."""
    spec = ModelSpec(
        name="tiny",
        activation="leaky_relu",
        class_names=("a",),
        input=InputSpec(image_hw=(32, 32)),
        decode=AnchorDecode(strides=(2,), anchors_wh=(((4.0, 4.0),),)),
    )
    model, inputs = Tiny(outputs=6).eval(), pictures()
    recipe = Recipe(title="", weight_observer="mse", weight_bits_3x3=6, bias_correction=True)
    quantized = run(model, inputs, recipe)
    export_model(quantized, spec, tmp_path / "int8")
    qparams = load_qparams(tmp_path / "int8" / "qparams.json")
    assert {name: weight.bits for name, weight in qparams.weights.items()} == {
        "stem.weight": 8,
        "left.weight": 8,
        "right.weight": 6,
    }
    with torch.no_grad():
        expected, floats = quantized.fake_quant(inputs[0])[0].numpy(), quantized.reference(inputs[0])[0].numpy()
    for engine in ("onnxruntime", "ncnn"):
        pytest.importorskip(engine)
        target, out = Target(title="", engine=engine, precisions=("int8",)), tmp_path / engine
        out.mkdir()
        artefact = backends.build(tmp_path / "int8" / "model.onnx", spec, qparams, target, out, precision="int8")
        session = backends.open_artefact(out, artefact, spec)
        found = session.run(inputs[0].numpy())[0]
        session.close()
        # the engine's own rounding of ties, against what quantization as a whole does
        assert np.abs(found - expected).mean() < 0.1 * np.abs(expected - floats).mean(), engine


@pytest.mark.parametrize("model", ["yolov7-tiny", "ppyoloe-s"])
def test_the_example_with_float_layers_fits_more_than_one_family(model: str) -> None:
    deploy = trace_deploy_form(models.create(model, 3))
    plain, kept = (
        find_placement(deploy, load_recipe(name).float_layers).int8_layers()
        for name in ("int8-mse", "int8-keep-float-example")
    )
    assert 0 < len(plain) - len(kept) < 5
    assert not any("stem" in path for path in kept)


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(QuantizationError, match="cannot be traced"):
        run(Branching(), pictures(1))


def test_the_model_given_is_left_as_it_is() -> None:
    model = Tiny().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(model, pictures(1))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
