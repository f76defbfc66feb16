"""`quantize` and `evaluate` compute on the device that they are given, in batches, and find what the CPU finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from other_device import OtherDevice
from typer.testing import CliRunner
from whole_way import WholeWay

from edgeyolo import verbs
from edgeyolo.cli.app import make_app
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.verbs import QuantizeOptions

RECIPE = "title = 'all of it'\nobserver = 'mse'\ncount = 20\nequalize = true\nbias_correction = true\n"


@pytest.mark.slow
def test_calibration_sensitivity_and_scores_are_taken_there(
    whole_way: WholeWay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    found = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("EDGEYOLO_CACHE", str(tmp_path / "cache" / device))
        options = QuantizeOptions(device=device, sensitivity=device == "cuda", sensitivity_groups=0, report=False)
        with OtherDevice() as there:
            result = verbs.quantize(
                whole_way.run, whole_way.data, tmp_path / device, recipe=str(recipe), options=options
            )
        found[device] = (result.scores, load_qparams(tmp_path / device / "qparams.json"))
        if device == "cuda":
            assert there.convolutions[16] and set(there.here) == {1}  # the check of the export is the CPU's
        else:
            assert not there.convolutions
    (scores, qparams), (expected_scores, expected) = found["cuda"], found["cpu"]
    assert qparams.weights == expected.weights
    scales = {name: group.scale for name, group in qparams.groups.items()}
    assert scales == pytest.approx({name: group.scale for name, group in expected.groups.items()}, rel=1e-6)
    graphs = [read_initializers(tmp_path / device / "model.onnx") for device in ("cpu", "cuda")]
    assert graphs[0].keys() == graphs[1].keys()
    for name, value in graphs[0].items():  # biases are corrected by means of rounded maps
        np.testing.assert_allclose(graphs[1][name], value, atol=1e-3 * np.abs(value).max(initial=1e-6), err_msg=name)
    near = (0.01, 1.0)  # AP: in float; and rounded, where other batches add otherwise and a step turns now and then
    for score, wanted, difference in zip(scores, expected_scores, near, strict=True):
        assert score.ap == pytest.approx(wanted.ap, abs=difference)


def read_initializers(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in load_onnx(path).graph.initializer}


def test_a_checkpoint_is_evaluated_there_in_batches(whole_way: WholeWay) -> None:
    expected = verbs.evaluate(whole_way.run, whole_way.data, split="val", device="cpu")
    with OtherDevice() as there:
        score = verbs.evaluate(whole_way.run, whole_way.data, split="val", device="cuda")
    assert set(there.convolutions) == {16} and not there.here
    assert score.ap == pytest.approx(expected.ap, abs=0.01) and score.boxes == expected.boxes
    with OtherDevice() as there:
        verbs.evaluate(whole_way.run, whole_way.data, split="val", device="cpu")
    assert set(there.here) == {4} and not there.convolutions


@pytest.mark.parametrize("verb", ["evaluate", "quantize"])
def test_a_device_that_is_not_there_is_a_wrong_use(verb: str, whole_way: WholeWay, tmp_path: Path) -> None:
    more = ["--out", str(tmp_path / "out")] if verb == "quantize" else []
    arguments = [verb, str(whole_way.run), "--data", str(whole_way.data), "--device", "abacus", *more]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 2 and "abacus" in done.output
