"""2:4 sparsity: which weights go, that they stay gone in training, and that TensorRT is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from one_layer import OneLayer
from qat_case import RECIPE, Case, make_case
from whole_way import WholeWay

from edgeyolo import verbs
from edgeyolo.backends.tensorrt import compile_for
from edgeyolo.backends.tensorrt.options import make_options
from edgeyolo.bundle import open_bundle
from edgeyolo.graph.qdq import load_onnx
from edgeyolo.graph.sparsity import sparse_weights
from edgeyolo.quantization.recover.qat import QatResult
from edgeyolo.quantization.recover.sparsity import kept_weights, pruned, sparse_layers
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.spec.strict import encode_json, load_json

SPARSE = msgspec.structs.replace(RECIPE, epochs=2, sparsity="2:4")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def trained(case: Case, tmp_path_factory: pytest.TempPathFactory) -> QatResult:
    return case.run(tmp_path_factory.mktemp("sparse") / "out", SPARSE)


def most_of_four(weight: np.ndarray) -> int:
    """The most weights that are not zero of any four consecutive input channels, counted one by one."""
    most = 0
    for kernel in weight:
        for y, x in np.ndindex(kernel.shape[1:]):
            for first in range(0, len(kernel), 4):
                most = max(most, sum(value != 0 for value in kernel[first : first + 4, y, x]))
    return most


def test_the_two_largest_of_four_are_kept() -> None:
    weight = torch.randn(5, 12, 3, 2, generator=torch.Generator().manual_seed(0))
    kept = kept_weights(weight)
    for o, c, y, x in np.ndindex(tuple(weight.shape)):
        four = weight[o, c // 4 * 4 : c // 4 * 4 + 4, y, x].abs()
        assert bool(kept[o, c, y, x]) == bool((four > weight[o, c, y, x].abs()).sum() < 2)


def test_pruning_leaves_what_it_was_given(case: Case) -> None:
    layers = sparse_layers(case.quantized)
    before = {path: case.quantized.float_deploy.get_parameter(f"{path}.weight").clone() for path in layers}
    found = pruned(case.quantized)
    assert layers and len(layers) < len(case.quantized.placement.int8_layers())  # the first has three input channels
    for path, dense in before.items():
        assert torch.equal(case.quantized.float_deploy.get_parameter(f"{path}.weight"), dense)
        for module in (found.float_deploy, found.fake_quant):
            sparse = module.get_parameter(f"{path}.weight").detach()
            assert most_of_four(sparse.numpy()) == 2
            assert torch.equal(sparse[sparse != 0], dense[sparse != 0])


def test_zeros_stay_and_the_others_move(case: Case, trained: QatResult) -> None:
    start = pruned(case.quantized)
    assert trained.best.ap >= trained.start.ap and trained.best_epoch > 0
    moved = 0
    for path in sparse_layers(case.quantized):
        before = start.float_deploy.get_parameter(f"{path}.weight").detach()
        after = trained.quantized.float_deploy.get_parameter(f"{path}.weight").detach()
        assert torch.equal(after[before == 0], before[before == 0])
        moved += int((after != before).sum())
    assert moved > 0


def test_sparse_weights_are_found_in_a_graph(tmp_path: Path) -> None:
    model = load_onnx(OneLayer().write(tmp_path)[0])
    assert sparse_weights(model.graph) == []
    dense = np.random.default_rng(0).normal(0, 1, (6, 8, 3, 3)).astype(np.float32)
    sparse = np.where(kept_weights(torch.from_numpy(dense)).numpy(), dense, 0).astype(np.float32)
    nodes = [onnx.helper.make_node("Conv", ["images", name], [name + "_out"]) for name in ("dense", "sparse")]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in (("dense", dense), ("sparse", sparse))]
    graph = onnx.helper.make_graph(nodes, "two", [], [], tensors)
    assert sparse_weights(graph) == ["sparse"]


def test_sparsity_without_training_is_refused(tmp_path: Path) -> None:
    options = verbs.QuantizeOptions(sparsity="2:4")
    with pytest.raises(UsageError, match="Give --qat too"):
        verbs.quantize(tmp_path / "none", tmp_path, tmp_path / "out", options=options)


def test_tensorrt_is_told_and_builds(whole_way: WholeWay, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    model = load_onnx(whole_way.quantized / "model.onnx")
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4 and tensor.dims[1] % 4 == 0:
            dense = onnx.numpy_helper.to_array(tensor)
            sparse = np.where(kept_weights(torch.from_numpy(dense.copy())).numpy(), dense, 0).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(sparse, tensor.name))
    onnx.save(model, source / "model.onnx")
    record = load_json(whole_way.quantized / "model.json", ModelRecord)
    record = msgspec.structs.replace(record, onnx_sha256=sha256_of(source / "model.onnx"))
    (source / "model.json").write_bytes(encode_json(record))
    for folder, told in ((source, True), (whole_way.quantized, False)):
        result = verbs.deploy(folder, "rtx", tmp_path / "rtx.eyb", precision="fp16")
        assert result.manifest.artefact.options["sparse_weights"] is told
        assert ("--sparsity=enable" in result.notes[0]) is told
    trt = pytest.importorskip("tensorrt_rtx", reason="the compiler that needs no GPU is tensorrt_rtx")
    assert hasattr(trt.BuilderFlag, "SPARSE_WEIGHTS")
    verbs.deploy(source, "rtx", tmp_path / "rtx.eyb", precision="fp16")
    with open_bundle(tmp_path / "rtx.eyb") as bundle:
        options = make_options(bundle.manifest.artefact.options)
        plan = compile_for(bundle.folder / "model.onnx", options, "fp16", capability="8.6")
    assert len(plan) > 100_000
