"""Quantization-aware training on a small detector whose weights have 4 bits, labelled by its own float copy."""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from edgeyolo import backends, models
from edgeyolo.export import export_model
from edgeyolo.quantization import Quantized, quantize
from edgeyolo.quantization.calibrate.ranges import trace_deploy_form
from edgeyolo.quantization.recover.qat import QatResult
from edgeyolo.quantization.recover.stage_features import expose, feature_loss, float_teacher, stage_tensors
from edgeyolo.spec.errors import CheckpointError, StoppedError, TrainingError, UsageError
from edgeyolo.spec.qparams import CalibrationRecord, load_qparams
from edgeyolo.spec.recipe import QatRecipe, Recipe
from edgeyolo.spec.strict import decode_json, encode_json
from edgeyolo.spec.target import load_target
from edgeyolo.training.checkpoint import read_record, read_tensors
from edgeyolo.training.run import LAST

PROGRAM = Path(__file__).parents[2] / "cases/qat_case.py"


def load_program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("qat_case", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["qat_case"] = module
    spec.loader.exec_module(module)
    return module


qat_case = load_program()
Case, RECIPE = qat_case.Case, qat_case.RECIPE


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return qat_case.make_case(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def trained(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[QatResult, Path]:
    out = tmp_path_factory.mktemp("qat")
    return case.run(out), out


@pytest.fixture(scope="module")
def long(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[QatResult, Path]:
    out = tmp_path_factory.mktemp("long")
    return case.run(out, qat_case.LONG), out


def feature_error(quantized: Quantized, teacher: fx.GraphModule, inputs: Tensor) -> float:
    """Mean over the stages of the squared error from the float model, over its variance; written independently."""
    errors = []
    found: list[dict[str, Tensor]] = []
    for module in (quantized.fake_quant, teacher):
        seen: dict[str, Tensor] = {}

        class Recorder(fx.Interpreter):
            def run_node(self, n: fx.Node, seen: dict[str, Tensor] = seen) -> object:
                seen[n.name] = super().run_node(n)
                return seen[n.name]

        with torch.no_grad():
            Recorder(module).run(inputs)
        found.append(seen)
    for name in stage_tensors(teacher, (64, 64)):
        mine, theirs = (seen[name].double() for seen in found)
        errors.append(float(((mine - theirs) ** 2).mean() / theirs.var(unbiased=False)))
    return sum(errors) / len(errors)


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def assert_same_tensors(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name], theirs[name]), name


# What training does


def test_training_regains_what_four_bit_weights_cost(case: Case, trained: tuple[QatResult, Path]) -> None:
    result, _ = trained
    losses = [row.losses["total"] for row in result.history]
    assert losses[-1] < 0.7 * losses[0]
    before, after = (
        feature_error(q, case.quantized.float_deploy, case.inputs) for q in (case.quantized, result.quantized)
    )
    assert after < 0.6 * before
    assert result.best_epoch >= 1
    assert result.best.ap == max(row.ap for row in result.history if row.ap is not None) > result.start.ap
    assert [row.epoch for row in result.history] == [1, 2, 3]


def test_scales_never_change_and_weights_do(case: Case, trained: tuple[QatResult, Path]) -> None:
    quantized = trained[0].quantized
    assert quantized.scales is case.quantized.scales
    assert_same_tensors(buffers_of(case.quantized.fake_quant), buffers_of(quantized.fake_quant))
    mine, theirs = (dict(q.fake_quant.named_parameters()) for q in (case.quantized, quantized))
    for name in mine:
        assert not torch.equal(mine[name], theirs[name]), name


def test_the_result_is_one_set_of_weights_under_the_same_names(case: Case, trained: tuple[QatResult, Path]) -> None:
    quantized = trained[0].quantized
    names = [name for name, _ in case.quantized.float_deploy.named_parameters()]
    assert [name for name, _ in quantized.float_deploy.named_parameters()] == names
    assert_same_tensors(dict(quantized.float_deploy.named_parameters()), dict(quantized.fake_quant.named_parameters()))
    assert quantized.reference is case.quantized.reference
    record = quantized.calibration
    assert (record.method, record.recipe, record.count) == ("qat", "test", 16)
    assert record.qat is not None and record.qat.best_epoch == trained[0].best_epoch
    assert decode_json(encode_json(record), CalibrationRecord, where="") == record


def test_what_was_given_is_left_as_it_was(case: Case, tmp_path: Path) -> None:
    modules = (case.quantized.fake_quant, case.quantized.float_deploy, case.model)
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    case.run(tmp_path, msgspec.structs.replace(RECIPE, epochs=1))
    for module, values in zip(modules, before, strict=True):
        assert_same_tensors(dict(module.state_dict()), values)


def test_weights_that_were_knocked_are_pulled_back(case: Case, tmp_path: Path) -> None:
    """8-bit scales, and weights off by 5 % of their spread: training finds the way back to the float features."""
    sound = qat_case.make_case(tmp_path / "drawn", weight_bits=8, weight_bits_3x3=8)
    generator = torch.Generator().manual_seed(7)
    knocked = replace(sound.quantized, fake_quant=copy.deepcopy(sound.quantized.fake_quant))
    with torch.no_grad():
        for weight in (p for p in knocked.fake_quant.parameters() if p.dim() == 4):
            weight += 0.05 * weight.std() * torch.randn(weight.shape, generator=generator)
    teacher = sound.quantized.float_deploy
    before = feature_error(knocked, teacher, sound.inputs)
    assert before > 2 * feature_error(sound.quantized, teacher, sound.inputs)
    result = sound.run(tmp_path / "qat", msgspec.structs.replace(RECIPE, epochs=6), quantized=knocked)
    weights, _ = read_tensors(tmp_path / "qat" / LAST)
    with torch.no_grad():
        for name, parameter in knocked.fake_quant.named_parameters():
            parameter.copy_(weights[f"model.{name}"])
    assert feature_error(knocked, teacher, sound.inputs) < 0.6 * before
    assert result.best.ap >= result.start.ap


def test_the_start_is_kept_when_nothing_is_better(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = msgspec.structs.replace(RECIPE, epochs=2, optimizer="sgd", learning_rate=0.5, ema_decay=0.0)
    with caplog.at_level(logging.WARNING):
        result = case.run(tmp_path, recipe)
    assert result.best_epoch == 0
    assert result.best == result.start
    assert result.quantized is case.quantized
    assert "the start" in caplog.text and "is kept" in caplog.text
    assert len(result.history) == 2


def test_history_and_progress_tell_loss_and_best_ap(case: Case, tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []

    class Listener:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            told.append((stage, done, total, text))

    case.run(tmp_path, msgspec.structs.replace(RECIPE, epochs=1), progress=Listener())
    steps = [entry for entry in told if entry[0] == "qat 1/1"]
    assert [done for _, done, _, _ in steps] == [1, 2, 3, 4]
    assert all(total == 4 and "loss" in text and "best AP" in text for _, _, total, text in steps)
    assert (tmp_path / "log.csv").read_text().startswith("epoch,loss_features,loss_total,learning_rate,ap,ap50,seconds")


# Interruptions


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    case: Case, trained: tuple[QatResult, Path], tmp_path: Path
) -> None:
    class Interrupt:
        def step(self, stage: str, done: int, total: int, text: str = "") -> None:
            if stage.startswith("qat 3") and done == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="--resume"):
        case.run(tmp_path, progress=Interrupt())
    reached = read_record(tmp_path / LAST)
    assert (reached.epoch, reached.step) == (2, 2)
    resumed = case.run(tmp_path, resume=True)
    whole, out = trained
    assert_same_tensors(read_tensors(tmp_path / LAST)[0], read_tensors(out / LAST)[0])
    assert_same_tensors(dict(resumed.quantized.fake_quant.state_dict()), dict(whole.quantized.fake_quant.state_dict()))
    assert (resumed.best, resumed.best_epoch, resumed.start) == (whole.best, whole.best_epoch, whole.start)
    strip = [msgspec.structs.replace(row, seconds=0.0) for row in resumed.history]
    assert strip == [msgspec.structs.replace(row, seconds=0.0) for row in whole.history]
    again = case.run(tmp_path, resume=True)
    assert again.best == whole.best and again.history == resumed.history


def test_a_killed_training_resumes_to_the_weights_of_an_uninterrupted_one(
    case: Case, long: tuple[QatResult, Path], tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(killed)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (killed / "log.csv").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 1 <= read_record(killed / LAST).epoch < qat_case.LONG.epochs
    resumed = case.run(killed, qat_case.LONG, resume=True)
    whole, out = long
    assert len(resumed.history) == qat_case.LONG.epochs
    assert (resumed.best.ap, resumed.best_epoch) == (whole.best.ap, whole.best_epoch)
    assert_same_tensors(read_tensors(killed / LAST)[0], read_tensors(out / LAST)[0])


def test_two_processes_train_as_one(long: tuple[QatResult, Path], tmp_path: Path) -> None:
    """Batches of four: two pictures each. What is left is the order in which float32 is summed."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([*launch, str(PROGRAM), str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, shared = long[0], read_record(tmp_path / LAST)
    assert shared.start is not None and shared.start.ap == whole.start.ap
    for mine, theirs in zip(shared.history, whole.history, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-3)
        assert mine.ap == pytest.approx(theirs.ap, abs=0.2)


def test_a_state_of_another_start_is_refused(case: Case, trained: tuple[QatResult, Path]) -> None:
    _, out = trained
    with pytest.raises(UsageError, match="Add --resume"):
        case.run(out)
    other_recipe = msgspec.structs.replace(RECIPE, learning_rate=1e-4)
    with pytest.raises(CheckpointError, match="another start"):
        case.run(out, other_recipe, resume=True)
    with pytest.raises(CheckpointError, match="another start"):
        case.run(out, quantized=trained[0].quantized, resume=True)
    fewer = replace(case.train, records=case.train.records[:-1])
    with pytest.raises(CheckpointError, match="another start"):
        case.run(out, train_data=fewer, resume=True)
    scaled = copy.deepcopy(case.quantized.fake_quant)
    next(scaled.buffers()).mul_(1.01)
    with pytest.raises(CheckpointError, match="another start"):
        case.run(out, quantized=replace(case.quantized, fake_quant=scaled), resume=True)


def test_a_missing_or_broken_state_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        case.run(tmp_path, resume=True)
    (tmp_path / LAST).write_bytes(b"not a safetensors file")
    with pytest.raises(CheckpointError, match="cannot be read"):
        case.run(tmp_path, resume=True)


def test_a_loss_that_is_not_a_number_names_the_pictures_and_loses_nothing(case: Case, tmp_path: Path) -> None:
    """Weights that leave their start by 1e30 per step overflow within the first steps of the first epoch."""
    recipe = msgspec.structs.replace(RECIPE, optimizer="sgd", learning_rate=1e38, epochs=2)
    ids = [record.image_id for record in case.train.records]
    with pytest.raises(TrainingError, match="last checkpoint is good") as failure:
        case.run(tmp_path, recipe)
    assert set(failure.value.where.split(", ")) <= set(ids)
    _, state = read_tensors(tmp_path / LAST)
    assert state.epoch == 0 and state.start == state.best


# Losses


@pytest.mark.parametrize("name", ["yolov7-nano", "ppyoloe-s"])
def test_stages_are_found_and_exposing_them_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = models.create(name, 3)
    deploy = trace_deploy_form(model)
    names = stage_tensors(deploy, (64, 64))
    expected = {
        "yolov7-nano": ("backbone_stages_2_1_join_act", "neck_spp_join_act", "neck_rejoins_1_elan_join_act"),
        "ppyoloe-s": ("backbone_stage_16_exit_act", "neck_top_32_exit_act", "neck_bottom_32_exit_act"),
    }[name]
    assert set(expected) <= set(names)
    raw_maps = [node.name for end in deploy.graph.nodes if end.op == "output" for node in end.all_input_nodes]
    assert set(raw_maps) <= set(names)
    assert len(names) < 0.25 * len(list(deploy.graph.nodes))
    exposed = expose(deploy, names)
    assert {id(p) for p in exposed.parameters()} == {id(p) for p in deploy.parameters()}
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        outputs, plain = exposed(x), deploy(x)
        maps, features = outputs[: len(plain)], outputs[len(plain) :]
    assert all(torch.equal(a, b) for a, b in zip(maps, plain, strict=True))
    assert all(value.dim() == 4 and value.shape[2] * value.shape[3] >= 4 for value in features)


def test_feature_loss_weighs_stages_by_their_variance() -> None:
    generator = torch.Generator().manual_seed(3)
    teacher = [torch.randn(2, 4, 8, 8, generator=generator) * scale for scale in (1e-3, 1.0, 1e3)]
    student = [tensor + 0.1 * tensor.std(unbiased=False) for tensor in teacher]
    assert float(feature_loss(student, teacher)) == pytest.approx(3 * 0.01, rel=1e-4)
    assert float(feature_loss(teacher, teacher)) == 0.0
    flat = [torch.zeros(1, 2, 4, 4)]
    assert np.isfinite(float(feature_loss([flat[0] + 1e-3], flat)))


def make_quantized(model: nn.Module, **recipe: object) -> Quantized:
    inputs = [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    settings = msgspec.structs.replace(Recipe(title="", observer="max"), **recipe)
    return quantize(model.eval(), inputs, settings, recipe_name="", picture_hashes={})


@pytest.mark.parametrize("equalized", [False, True])
def test_the_teacher_is_the_float_model_also_after_bias_correction(case: Case, equalized: bool) -> None:
    """Its maps are those of the model, and its inner tensors those that the student's layers were made for."""
    quantized = make_quantized(case.model, weight_bits=4, bias_correction=True, equalize=equalized)
    teacher = float_teacher(quantized)
    with torch.no_grad():
        found, wanted, corrected = (m(case.inputs)[0] for m in (teacher, case.model, quantized.float_deploy))
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(corrected, wanted, atol=1e-2)
    weights = [dict(m.named_parameters())["join.weight"] for m in (teacher, quantized.float_deploy)]
    assert torch.equal(*weights)


@pytest.mark.parametrize("name", ["yolov7-nano", "ppyoloe-s", "auxiliary"])
def test_the_detection_loss_of_the_model_can_join(name: str, case: Case, tmp_path: Path) -> None:
    """Auxiliary heads are not in the deploy form; the criterion takes the lead maps alone."""
    torch.manual_seed(0)
    classes = len(case.train.class_names)
    if name == "auxiliary":
        from edgeyolo.models import yolov7

        config = replace(yolov7.VARIANTS["yolov7-nano"], num_classes=classes, auxiliary_chs=(16, 32, 64))
        model: nn.Module = yolov7.Network(config)
    else:
        model = models.create(name, classes)
    spec = msgspec.structs.replace(
        case.spec, name=model.config.name, input=model.make_input_spec((64, 96)), decode=model.decode
    )
    small = replace(
        case,
        model=model,
        spec=spec,
        quantized=make_quantized(model),
        train=replace(case.train, records=case.train.records[:4]),
    )
    recipe = QatRecipe(epochs=1, batch=2, detection_weight=0.5)
    losses = small.run(tmp_path, recipe).history[0].losses
    assert set(losses) == {"features", "detection", "total"}
    assert losses["detection"] > 0.0
    assert losses["total"] == pytest.approx(losses["features"] + losses["detection"], rel=1e-5)


def test_the_forward_pass_can_run_in_bf16(case: Case, trained: tuple[QatResult, Path], tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(RECIPE, epochs=1, precision="bf16")
    loss = case.run(tmp_path, recipe).history[0].losses["total"]
    plain = trained[0].history[0].losses["total"]
    assert loss != plain
    assert loss == pytest.approx(plain, rel=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_weight": 0.0}, "both 0"),
        ({"detection_weight": -1.0}, "detection_weight is -1"),
        ({"detection_weight": 1.0}, "no detection loss"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"ema_decay": 1.0}, "ema_decay is 1"),
        ({"final_learning_rate_factor": -0.1}, "final_learning_rate_factor"),
        ({"mosaic": 2.0}, "mosaic is 2"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(case: Case, change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        case.run(tmp_path, msgspec.structs.replace(RECIPE, **change))


# What it is good for


def test_the_student_can_be_wrapped_for_distributed_training(case: Case, tmp_path: Path) -> None:
    """One process: the same gradients with the wrapper, and every parameter takes part."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    student = copy.deepcopy(case.quantized.fake_quant).requires_grad_(True)
    names = stage_tensors(case.quantized.float_deploy, (64, 64))
    with torch.no_grad():
        wanted = expose(case.quantized.float_deploy, names)(case.inputs)

    def gradients(module: nn.Module) -> dict[str, Tensor]:
        student.zero_grad(set_to_none=True)
        feature_loss(module(case.inputs), wanted).backward()
        return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}

    plain = gradients(expose(student, names))
    assert plain.keys() == dict(student.named_parameters()).keys()
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = gradients(DistributedDataParallel(expose(student, names)))
    finally:
        distributed.destroy_process_group()
    assert wrapped.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(wrapped[name], plain[name])


def test_the_result_ships_as_what_was_measured(case: Case, trained: tuple[QatResult, Path], tmp_path: Path) -> None:
    """Exported and run by ONNX Runtime in int8: within 2 % of the quantization error, as a shallow network allows."""
    quantized = trained[0].quantized
    export_model(quantized, case.spec, tmp_path / "model")
    qparams = load_qparams(tmp_path / "model" / "qparams.json")
    assert qparams.calibration == quantized.calibration
    artefact = backends.build(
        tmp_path / "model" / "model.onnx",
        case.spec,
        qparams,
        load_target("host-onnx"),
        tmp_path / "built",
        precision="int8",
    )
    session = backends.open_artefact(tmp_path / "built", artefact, case.spec, threads=1)
    images = case.inputs[:1]
    engine = session.run(images.numpy())[0]
    session.close()
    with torch.no_grad():
        fake, plain = (module(images)[0].numpy() for module in (quantized.fake_quant, quantized.float_deploy))
    cost = float(np.abs(plain - fake).mean())
    assert cost > 1e-4 * np.ptp(plain)
    assert float(np.abs(engine - fake).mean()) < 0.02 * cost
