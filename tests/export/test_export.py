"""What is written: a graph equal to torch, under fixed names, the same bytes each time, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo import models
from edgeyolo.export import export_model
from edgeyolo.export.onnx import trace_onnx
from edgeyolo.export.qparams import make_qparams
from edgeyolo.export.verify import check_parity
from edgeyolo.nn.conv import BnAct
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization import Quantized, quantize
from edgeyolo.spec.errors import ExportError, FormatError, OutputError
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelRecord, ModelSpec
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.qparams import load_qparams, save_qparams
from edgeyolo.spec.recipe import Recipe
from edgeyolo.spec.strict import load_json

HW = (64, 64)


def spec_of(model: nn.Module, name: str, classes: int = 3) -> ModelSpec:
    return ModelSpec(
        name=name,
        activation="",
        class_names=tuple(f"class {i}" for i in range(classes)),
        input=model.make_input_spec(HW),
        decode=model.decode,
    )


class Tiny(nn.Module):
    """One level of one anchor and one class, with a shared tensor, a pool, a concat, a residual and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.drop = nn.MaxPool2d(3, 1, 1), nn.Dropout()
        self.join = nn.Conv2d(24, 8, 3, 2, 1)
        self.head = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.drop(F.leaky_relu(self.stem(x), 0.1))
        right = F.leaky_relu(self.right(x), 0.1) + x
        joined = torch.cat([F.leaky_relu(self.left(x), 0.1), right, self.pool(right)], 1)
        return [self.head(F.leaky_relu(self.join(joined), 0.1))]


TINY = ModelSpec(
    name="tiny",
    activation="leaky_relu",
    class_names=("a",),
    input=InputSpec(image_hw=HW),
    decode=AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),)),
)


def quantized_tiny() -> Quantized:
    generator = torch.Generator().manual_seed(1)
    pictures = [torch.rand(1, 3, *HW, generator=generator) for _ in range(3)]
    recipe = Recipe(title="", observer="max", float_layers=("left",))
    return quantize(Tiny(), pictures, recipe, recipe_name="int8-max", picture_hashes={"p": "f" * 64})


def run_onnx(path: Path, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})


@pytest.mark.parametrize("name", ["yolov7-nano", "ppyoloe-s"])
def test_a_model_survives_export(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.create(name, 3).eval()
    deploy, spec = fold_model(model), spec_of(model, name)
    record = export_model(deploy, spec, tmp_path / "out", checkpoint_sha256="c" * 64)
    path = tmp_path / "out" / "model.onnx"
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.onnx"]
    assert load_json(path.parent / "model.json", ModelRecord) == record
    assert record.onnx_sha256 == sha256_of(path)

    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["images"]
    assert [o.name for o in graph.output] == [f"map_{i}" for i in range(spec.output_count)]
    weights = {f"{n}.weight" for n, m in deploy.named_modules() if isinstance(m, nn.Conv2d)}
    assert weights == {node.input[1] for node in graph.node if node.op_type == "Conv"}
    assert weights <= {tensor.name for tensor in graph.initializer}
    assert not {node.op_type for node in graph.node} & {"Identity", "Dropout", "BatchNormalization", "Shape"}

    images = np.random.default_rng(9).standard_normal((1, 3, *HW), dtype=np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images))
    for ours, torchs in zip(run_onnx(path, images), expected, strict=True):
        assert np.abs(ours - torchs.numpy()).max() <= 1e-4 * max(np.ptp(torchs.numpy()), 1.0)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for quantized in (False, True):
        digests = []
        for run in "ab":
            module = quantized_tiny() if quantized else fold_model(Tiny())
            export_model(module, TINY, tmp_path / run)
            digests.append([sha256_of(p) for p in sorted((tmp_path / run).iterdir())])
        assert digests[0] == digests[1]
        assert len(digests[0]) == 2 + quantized


def test_no_path_of_this_machine_is_written(tmp_path: Path) -> None:
    export_model(quantized_tiny(), TINY, tmp_path / "out")
    here = str(Path(__file__).parents[2]).encode()
    assert all(here not in p.read_bytes() and b"/tmp/" not in p.read_bytes() for p in (tmp_path / "out").iterdir())


def test_dynamic_batch(tmp_path: Path) -> None:
    export_model(fold_model(Tiny()), TINY, tmp_path / "open", dynamic_batch=True)
    images = np.random.default_rng(0).random((3, 3, *HW), dtype=np.float32)
    assert run_onnx(tmp_path / "open" / "model.onnx", images)[0].shape == (3, 6, 8, 8)
    export_model(fold_model(Tiny()), TINY, tmp_path / "fixed")
    shape = onnx.load(tmp_path / "fixed" / "model.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [1, 3, *HW]


# ---- qparams.json ----


def test_qparams_name_what_is_in_the_graph(tmp_path: Path) -> None:
    quantized = quantized_tiny()
    export_model(quantized, TINY, tmp_path / "out")
    qparams = load_qparams(tmp_path / "out" / "qparams.json")
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert qparams.onnx_sha256 == sha256_of(tmp_path / "out" / "model.onnx")
    assert qparams.calibration == quantized.calibration

    by_weight = {node.input[1]: node for node in graph.node if node.op_type == "Conv"}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert {layer.weight for layer in qparams.layers.values()} == set(by_weight)
    for path, layer in qparams.layers.items():
        assert layer.precision == ("float" if path in ("left", "head") else "int8")
        if layer.precision == "int8":
            assert by_weight[layer.weight].input[0] in qparams.groups[layer.group].tensors
            scales = qparams.weights[layer.weight]
            assert len(scales.scales) == shapes[layer.weight][0]
            assert (scales.axis, scales.bits, scales.how) == (0, 8, "max")
    named = [tensor for group in qparams.groups.values() for tensor in group.tensors]
    read = {by_weight[layer.weight].input[0] for layer in qparams.layers.values() if layer.precision == "int8"}
    assert sorted(named) == sorted(read)
    assert set(qparams.weights) == {layer.weight for layer in qparams.layers.values() if layer.precision == "int8"}


def test_the_residual_puts_three_tensors_into_one_group(tmp_path: Path) -> None:
    """`x` is an operand of the add, read by `right`; the sum goes through pool and concat into `join`."""
    export_model(quantized_tiny(), TINY, tmp_path / "out")
    layers = load_qparams(tmp_path / "out" / "qparams.json").layers
    assert len({layers[path].group for path in ("stem", "right", "join")}) == 3


def test_qparams_survive_a_round_trip_and_dangling_names_are_refused(tmp_path: Path) -> None:
    import msgspec

    export_model(quantized_tiny(), TINY, tmp_path / "out")
    qparams = load_qparams(tmp_path / "out" / "qparams.json")
    save_qparams(qparams, tmp_path / "again.json")
    assert load_qparams(tmp_path / "again.json") == qparams
    save_qparams(msgspec.structs.replace(qparams, weights={}), tmp_path / "dangling.json")
    with pytest.raises(FormatError, match="int8 but its group or weight is not listed"):
        load_qparams(tmp_path / "dangling.json")


def test_scales_of_another_graph_are_refused() -> None:
    quantized = quantized_tiny()
    model = trace_onnx(quantized.float_deploy, HW, 1)
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] == "right.weight":
            node.input[1] = "head.weight"
    with pytest.raises(ExportError, match="right: an int8 layer has no node"):
        make_qparams(quantized, model, "")


# ---- what must be refused ----


def test_a_graph_that_differs_from_torch_is_refused() -> None:
    deploy = fold_model(Tiny())
    model = trace_onnx(deploy, HW, 1)
    check_parity(model, deploy, TINY)
    with torch.no_grad():
        deploy.head.bias += 0.01
    with pytest.raises(ExportError, match="map_0 differs from torch"):
        check_parity(model, deploy, TINY)
    with torch.no_grad():
        deploy.head.bias[0] = float("nan")
    with pytest.raises(ExportError, match="map_0 differs from torch"):
        check_parity(trace_onnx(deploy, HW, 1), deploy, TINY)


def test_a_spec_of_other_maps_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    import msgspec

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("kept")
    wrong = msgspec.structs.replace(TINY, class_names=("a", "b"))
    with pytest.raises(ExportError, match="2 classes"):
        export_model(fold_model(Tiny()), wrong, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "old").read_text() == "kept"


def test_an_untraceable_module_is_refused() -> None:
    class Sorting(Tiny):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [torch.linalg.eigvals(self.stem(x)[0, 0])]

    with pytest.raises(ExportError, match="cannot be traced to ONNX"):
        trace_onnx(Sorting().eval(), HW, 1)


def test_a_convolution_that_takes_no_part_is_named() -> None:
    class Idle(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Conv2d(3, 3, 1)

    with pytest.raises(ExportError, match="without a node: idle"):
        trace_onnx(Idle().eval(), HW, 1)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError):
        export_model(fold_model(Tiny()), TINY, tmp_path / "out")


def test_batch_norms_that_have_learned_nothing_keep_their_names() -> None:
    """Their weights are all alike, and equal tensors of two layers would be one tensor."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), BnAct(8, "silu"), BnAct(8, "silu"), nn.Conv2d(8, 6, 3, 2, 1))
    deploy = fold_model(network)
    before = {name: value.clone() for name, value in deploy.state_dict().items()}
    model = trace_onnx(deploy, HW, 1)
    written = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name in ("1.conv.weight", "2.conv.weight"):
        np.testing.assert_array_equal(written[name], before[name])
    assert all(torch.equal(value, before[name]) for name, value in deploy.state_dict().items())
