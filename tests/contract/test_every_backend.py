"""Every engine module: build, open, run = the torch module, in float and with its fake-quantized twin in int8.

The reference quantizes with torch's own fake_quantize operators, by hooks on the module, and shares no code with
the backends. The network has every kind of layer a detector has: strided, depthwise, grouped and plain convolutions,
fused and unfused activations, concat, pooling, upsampling, add, slices and a squeeze-excite gate.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import re
import runpy
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxslim
import pytest
import torch
from any_spec import any_spec
from torch import nn
from torch.nn import functional as F

from edgeyolo import backends
from edgeyolo.spec.errors import BackendError, UnknownNameError, UsageError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.qparams import CalibrationRecord, LayerPrecision, QParams, TensorGroup, WeightScales
from edgeyolo.spec.target import Target, load_target
from edgeyolo.verbs import artefact_name

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own ONNX exporter

ROOT = Path(__file__).parents[2]
IMAGE_HW = (64, 96)
SPEC = any_spec(IMAGE_HW, 2)
HEADS = ("head_fine", "head_coarse")
HOSTS = {name: backends.load_engine(name).host_target() for name in backends.list_engines()}
RUNNABLE = [name for name, target in HOSTS.items() if target and not backends.probe(load_target(target))]


class EveryLayer(nn.Module):
    """A small detector body with two output maps; the coarse one is computed first and returned last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.left = nn.Conv2d(16, 16, 3, 1, 1)
        self.right = nn.Conv2d(16, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.grouped = nn.Conv2d(16, 16, 3, 1, 1, groups=4)
        self.gate = nn.Conv2d(32, 32, 1)
        self.pooled_gate = nn.Conv2d(32, 32, 1)
        self.down = nn.Conv2d(32, 32, 6, 2, 2)
        self.tail = nn.Conv2d(32, 32, 3, 1, 1, bias=False)
        self.head_fine = nn.Conv2d(32, 24, 1)
        self.head_coarse = nn.Conv2d(32, 24, 1)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = F.leaky_relu(self.stem(images), 0.1)
        left, right = F.silu(self.left(x)), F.hardswish(self.right(x))
        left = F.relu(self.grouped(F.relu(self.depthwise(left))))
        fine = torch.cat([left, right], 1)
        fine = fine * F.hardsigmoid(self.gate(fine.mean((2, 3), keepdim=True)))
        fine = fine * torch.sigmoid(self.pooled_gate(F.adaptive_avg_pool2d(fine, 1)))
        first, second = fine.chunk(2, 1)
        fine = torch.cat([second, first], 1)
        coarse = F.leaky_relu(self.down(F.max_pool2d(fine, 5, 1, 2)), 0.1)
        coarse = self.tail(coarse) + coarse
        coarse_map = self.head_coarse(F.max_pool2d(coarse, 2, 2))
        fine = fine + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return [self.head_fine(fine), coarse_map]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One network as the export room would hand it over, and what it must compute."""

    onnx_path: Path
    qparams: QParams
    images: np.ndarray
    float_maps: list[np.ndarray]
    int8_maps: list[np.ndarray]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="module")
def simplified(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Without the nodes that compute shapes, as the export room leaves it."""
    return prepare(tmp_path_factory.mktemp("simplified") / "model.onnx", simplify=True)


def prepare(path: Path, *, simplify: bool = False) -> Prepared:
    torch.manual_seed(0)
    module = EveryLayer().eval()
    for layer in module.children():
        fan_in = layer.weight[0].numel()
        nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
    nn.init.zeros_(module.right.weight[3:4])  # a channel of zeros: its range is empty
    images = torch.rand(3, 3, *IMAGE_HW, generator=torch.Generator().manual_seed(1))
    export(module, path)
    if simplify:
        onnx.save(onnxslim.slim(onnx.load(path)), path)
    qparams = calibrate(module, images, path)
    with torch.inference_mode():
        float_maps = [map_.numpy() for map_ in module(images)]
        int8_maps = [map_.numpy() for map_ in fake_quantized(module, qparams)(images)]
    return Prepared(path, qparams, images.numpy(), float_maps, int8_maps)


def export(module: nn.Module, path: Path, *, dynamic: bool = False) -> None:
    axes = {name: {0: "batch"} for name in ("images", "map_0", "map_1")} if dynamic else None
    torch.onnx.export(
        module,
        (torch.zeros(1, 3, *IMAGE_HW),),
        str(path),
        input_names=["images"],
        output_names=["map_0", "map_1"],
        opset_version=17,
        dynamic_axes=axes,
        dynamo=False,
    )


def calibrate(module: nn.Module, images: torch.Tensor, path: Path) -> QParams:
    """Max scales; layers that read one tensor of the ONNX graph share its group; heads stay float."""
    ranges: dict[str, float] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: ranges.update({name: args[0].abs().max().item()}))
        for name, layer in module.named_children()
    ]
    module(images)
    for hook in hooks:
        hook.remove()
    reads = {node.input[1]: node.input[0] for node in onnx.load(path).graph.node if node.op_type == "Conv"}
    groups, weights, layers = {}, {}, {}
    for name, layer in module.named_children():
        weight = f"{name}.weight"
        if name in HEADS:
            layers[name] = LayerPrecision(precision="float", weight=weight, why="head")
            continue
        group = f"g:{reads[weight]}"
        groups[group] = TensorGroup(tensors=(reads[weight],), scale=ranges[name] / 127, how="max")
        widest = layer.weight.detach().abs().amax((1, 2, 3))
        if name == "grouped":  # one scale per group is all that ncnn has there
            widest = widest.reshape(4, -1).amax(1).repeat_interleave(4)
        scales = torch.where(widest > 0, widest / 127, 1.0)
        weights[weight] = WeightScales(scales=tuple(scales.tolist()), how="max")
        layers[name] = LayerPrecision(precision="int8", weight=weight, group=group)
    return QParams(
        onnx_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        groups=groups,
        weights=weights,
        layers=layers,
        calibration=CalibrationRecord(recipe="test", method="ptq", count=3, seed=0, pictures={}),
    )


def fake_quantized(module: nn.Module, qparams: QParams) -> nn.Module:
    twin = copy.deepcopy(module)
    for name, layer in twin.named_children():
        plan = qparams.layers[name]
        if plan.precision == "float":
            continue
        scales = torch.tensor(qparams.weights[plan.weight].scales)
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        layer.weight.data = torch.fake_quantize_per_channel_affine(layer.weight.data, scales, zeros, 0, -127, 127)
        scale = qparams.groups[plan.group].scale
        layer.register_forward_pre_hook(
            lambda _, args, scale=scale: torch.fake_quantize_per_tensor_affine(args[0], scale, 0, -127, 127)
        )
    return twin


def make_target(engine: str, **changes: object) -> Target:
    values = {"title": "test board", "engine": engine, "precisions": ("int8", "fp32")}
    return Target(**{**values, **changes})


def build_and_open(
    prepared: Prepared, target: Target, precision: str, out: Path, threads: int = 1
) -> tuple[Artefact, backends.Session]:
    qparams = prepared.qparams if precision == "int8" else None
    artefact = backends.build(prepared.onnx_path, SPEC, qparams, target, out, precision=precision)
    assert set(artefact.files.values()) == {path.name for path in out.iterdir()}
    session = backends.open_artefact(out, artefact, SPEC, threads=threads)
    return artefact, session


def relative_errors(maps: list[np.ndarray], wanted: list[np.ndarray]) -> np.ndarray:
    """Absolute differences of all elements, in standard deviations of their map."""
    assert [map_.shape for map_ in maps] == [map_.shape for map_ in wanted]
    assert all(map_.dtype == np.float32 and map_.flags.c_contiguous for map_ in maps)
    return np.concatenate([(np.abs(a - b) / b.std()).ravel() for a, b in zip(maps, wanted, strict=True)])


@pytest.mark.parametrize("engine", RUNNABLE)
def test_float_equals_torch(prepared: Prepared, engine: str, tmp_path: Path) -> None:
    artefact, session = build_and_open(prepared, make_target(engine), "fp32", tmp_path)
    assert artefact.layers == {"float": 11}
    assert relative_errors(session.run(prepared.images), prepared.float_maps).max() < 1e-4


@pytest.mark.parametrize("engine", RUNNABLE)
def test_int8_equals_fake_quantized_torch(prepared: Prepared, engine: str, tmp_path: Path) -> None:
    """Equal but where a sum of another order falls on the other side of a rounding edge: one step, which the layers
    after it spread. Float is four times further away, so a float layer in place of an int8 one is seen. Layers one
    by one are compared within one step in tests/backends."""
    artefact, session = build_and_open(prepared, make_target(engine), "int8", tmp_path)
    assert artefact.layers == {"int8": 9, "float": 2}
    errors = relative_errors(session.run(prepared.images), prepared.int8_maps)
    float_errors = relative_errors(prepared.float_maps, prepared.int8_maps)
    assert errors.mean() < 0.25 * float_errors.mean()
    assert np.quantile(errors, 0.99) < 0.5 * np.quantile(float_errors, 0.99)


@pytest.mark.parametrize("engine", RUNNABLE)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_batches_are_single_pictures(prepared: Prepared, engine: str, batch: int, tmp_path: Path) -> None:
    _, session = build_and_open(prepared, make_target(engine), "fp32", tmp_path)
    together = session.run(prepared.images[:batch])
    for index in range(batch):
        alone = session.run(prepared.images[index : index + 1])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[index], b[0], atol=1e-5)


@pytest.mark.parametrize("engine", RUNNABLE)
def test_dynamic_batch(prepared: Prepared, engine: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = EveryLayer().eval()
    export(module, tmp_path / "dynamic.onnx", dynamic=True)
    artefact = backends.build(
        tmp_path / "dynamic.onnx", SPEC, None, make_target(engine), tmp_path / "o", precision="fp32"
    )
    session = backends.open_artefact(tmp_path / "o", artefact, SPEC)
    with torch.inference_mode():
        wanted = [map_.numpy() for map_ in module(torch.from_numpy(prepared.images))]
    assert relative_errors(session.run(prepared.images), wanted).max() < 1e-4


@pytest.mark.parametrize("engine", RUNNABLE)
@pytest.mark.parametrize("batch", [(4, 4), (1, 4)])
def test_a_bundle_for_several_pictures(
    simplified: Prepared, engine: str, batch: tuple[int, int], tmp_path: Path
) -> None:
    """Not square, and made of a graph for one: more, fewer and as many as it takes give what each gives alone. Sums may
    come in another order, and an int8 value fall on the other side of a rounding edge, as above."""
    spec = msgspec.structs.replace(SPEC, input=msgspec.structs.replace(SPEC.input, batch=batch))
    images = np.concatenate([simplified.images, simplified.images[::-1]])
    float_errors = relative_errors(simplified.float_maps, simplified.int8_maps)
    for precision in ("fp32", "int8"):
        qparams = simplified.qparams if precision == "int8" else None
        build = functools.partial(backends.build, simplified.onnx_path, precision=precision)
        artefact = build(spec, qparams, make_target(engine), tmp_path / precision)
        session = backends.open_artefact(tmp_path / precision, artefact, spec, threads=1)
        _, single = build_and_open(simplified, make_target(engine), precision, tmp_path / f"{precision}-one")
        alone = [np.concatenate(maps) for maps in zip(*(single.run(image[None]) for image in images), strict=True)]
        for count in (6, 4, 3, 1):
            errors = relative_errors(session.run(images[:count]), [map_[:count] for map_ in alone])
            assert errors.max() < 1e-4 if precision == "fp32" else errors.mean() < 0.01 * float_errors.mean()
        with pytest.raises(BackendError):
            session.run(images[:0])


@pytest.mark.parametrize("engine", RUNNABLE)
def test_threads_and_concurrent_runs_agree(prepared: Prepared, engine: str, tmp_path: Path) -> None:
    _, session = build_and_open(prepared, make_target(engine), "int8", tmp_path, threads=2)
    alone = session.run(prepared.images)
    results: list[list[np.ndarray]] = []
    workers = [threading.Thread(target=lambda: results.append(session.run(prepared.images))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    for maps in results:
        for a, b in zip(maps, alone, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("engine", RUNNABLE)
def test_wrong_images_and_closed_session_are_refused(prepared: Prepared, engine: str, tmp_path: Path) -> None:
    _, session = build_and_open(prepared, make_target(engine), "fp32", tmp_path)
    images = prepared.images
    for wrong in (images[0], images[:0], images[:, :2], images[..., :32], images.astype(np.float64)):
        with pytest.raises(BackendError):
            session.run(wrong)
    strided = np.asfortranarray(images[:1])
    assert relative_errors(session.run(strided), [map_[:1] for map_ in prepared.float_maps]).max() < 1e-3
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(images)


@pytest.mark.parametrize("engine", RUNNABLE)
def test_wrong_artefacts_are_refused(prepared: Prepared, engine: str, tmp_path: Path) -> None:
    artefact, _ = build_and_open(prepared, make_target(engine), "int8", tmp_path)
    with pytest.raises(BackendError):
        backends.open_artefact(tmp_path, artefact, any_spec(IMAGE_HW, 3))
    with pytest.raises(BackendError):
        backends.open_artefact(tmp_path, artefact, any_spec((32, 32), 2))
    for name in artefact.files.values():
        raw = (tmp_path / name).read_bytes()
        for broken in (b"", raw[: len(raw) // 2], b"\xff\xfe" + raw[2:]):
            (tmp_path / name).write_bytes(broken)
            with pytest.raises(BackendError):
                backends.open_artefact(tmp_path, artefact, SPEC)
        (tmp_path / name).unlink()
        with pytest.raises(BackendError, match="not there"):
            backends.open_artefact(tmp_path, artefact, SPEC)
        (tmp_path / name).write_bytes(raw)


@pytest.mark.parametrize("engine", RUNNABLE)
def test_wrong_builds_are_refused(prepared: Prepared, engine: str, tmp_path: Path) -> None:
    target, path, qparams = make_target(engine), prepared.onnx_path, prepared.qparams
    with pytest.raises(UsageError, match="fp16"):
        backends.build(path, SPEC, None, target, tmp_path, precision="fp16")
    with pytest.raises(UsageError, match="scales"):
        backends.build(path, SPEC, None, target, tmp_path, precision="int8")
    other = msgspec.structs.replace(qparams, onnx_sha256="0" * 64)
    with pytest.raises(BackendError, match="another"):
        backends.build(path, SPEC, other, target, tmp_path, precision="int8")
    renamed = {"x": LayerPrecision(precision="int8", weight="lefty.weight", group=next(iter(qparams.groups)))}
    weights = qparams.weights | {"lefty.weight": qparams.weights["left.weight"]}
    dangling = msgspec.structs.replace(qparams, layers=renamed, weights=weights)
    with pytest.raises(BackendError, match=r"left\.weight"):
        backends.build(path, SPEC, dangling, target, tmp_path, precision="int8")
    with pytest.raises(UnknownNameError, match="option"):
        backends.build(
            path, SPEC, None, make_target(engine, engine_options={"use_magic": True}), tmp_path, precision="fp32"
        )
    with pytest.raises(BackendError, match="9999"):
        backends.build(path, SPEC, None, make_target(engine, engine_versions=">=9999"), tmp_path, precision="fp32")
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BackendError):
        backends.build(tmp_path / "broken.onnx", SPEC, None, target, tmp_path, precision="fp32")


@pytest.mark.parametrize("engine", RUNNABLE)
def test_probe(engine: str) -> None:
    assert backends.probe(make_target(engine)) == []
    problems = backends.probe(make_target(engine, engine_versions=">=9999"))
    assert len(problems) == 1
    assert "pip install" in problems[0]


@pytest.mark.parametrize("name", backends.list_engines())
def test_every_engine_is_whole(name: str) -> None:
    engine = backends.load_engine(name)
    assert isinstance(engine, backends.Engine)
    assert engine.name == name
    assert engine.packages
    modules = {package.module for package in engine.packages}
    assert not engine.cpu_package or engine.cpu_package in modules
    for target in filter(None, (engine.host_target(), engine.check_target())):
        assert load_target(target).engine == name
    assert all(finding.what and finding.found for finding in engine.examine())


def test_what_setup_and_mypy_cannot_ask_is_what_engines_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra of an engine's name brings its packages and `onnx`, no others; mypy knows modules without types."""
    told: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", told.update)
    runpy.run_path(str(ROOT / "setup.py"))
    extras = {
        extra: {re.match(r"[\w.-]+", line)[0] for line in lines} for extra, lines in told["extras_require"].items()
    }
    packages = backends.list_packages()
    for package in packages:
        assert package.distribution in extras[package.extra], package
    for name in backends.list_engines():
        declared = {package.distribution for package in packages if package.extra == name}
        assert extras[name] == declared | (extras[name] & {"onnx"})
    (override,) = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())["tool"]["mypy"]["overrides"]
    assert {f"{package.module}.*" for package in packages} <= set(override["module"])


def test_results_of_a_simulator_are_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = Artefact(engine="onnxruntime", engine_version="", precision="int8", files={})
    assert artefact_name(artefact) == "onnxruntime int8"
    monkeypatch.setattr(type(backends.load_engine("onnxruntime")), "is_simulated", lambda self: True)
    assert artefact_name(artefact) == "onnxruntime int8 (simulated)"


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'ncnn'"):
        backends.probe(make_target("ncn"))


def test_missing_packages_are_named(prepared: Prepared, tmp_path: Path) -> None:
    """In a subprocess, where nothing of the engine is imported yet."""
    import subprocess
    import sys

    script = """
import sys
from pathlib import Path
package, engine, spec = sys.argv[1], sys.argv[2], sys.argv[5]
sys.modules[package] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == package else real(name, *rest)
import msgspec
from edgeyolo import backends
from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.target import Target
target = Target(title="t", engine=engine, precisions=("fp32",))
assert "torch" not in sys.modules
assert any(package in problem and "pip install" in problem for problem in backends.probe(target)) or package == "onnx"
try:
    spec = msgspec.json.decode(spec, type=ModelSpec)
    backends.build(Path(sys.argv[3]), spec, None, target, Path(sys.argv[4]), precision="fp32")
except MissingPackageError as error:
    assert error.package == package, error
    assert "torch" not in sys.modules
else:
    raise SystemExit("built without it")
"""
    spec = msgspec.json.encode(SPEC).decode()
    cases = [(package.module, engine) for engine in RUNNABLE for package in backends.load_engine(engine).packages]
    for package, engine in (*cases, ("onnx", RUNNABLE[0])):
        command = [sys.executable, "-c", script, package, engine, str(prepared.onnx_path), str(tmp_path), spec]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (package, done.stderr)
