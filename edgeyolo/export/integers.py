"""The integers that int8 layers read, in fake-quant torch and in ONNX Runtime's Q/DQ graph, value by value.

Two engines add up the products of a convolution in different orders, so a value next to the middle between two steps
now and then falls to the other side. One such step is spread by the layers after it. Both are counted: what each layer
adds by itself, and what is found when every layer reads what the ones before it made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import fx

from edgeyolo.graph.qdq import insert_qdq, weighted_nodes
from edgeyolo.quantization.quantize import Quantized
from edgeyolo.quantization.quantizers import is_quantizer_call
from edgeyolo.spec.errors import ExportError
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.tensor import INPUT_NAME

Int8 = npt.NDArray[np.int8]


@dataclass(frozen=True)
class IntegerDifference:
    """One int8 tensor in both, over all pictures.

    Attributes:
        tensor: its name in model.onnx.
        group: of its scale.
        values: how many integers there are.
        differing: how many of them are not the same, each engine running on its own values from the picture on.
        differing_alone: the same, when every earlier tensor is given ONNX Runtime's integers in both.
        largest: largest difference in steps, each running on its own.
        ties: values of fake-quant in the middle between two steps, where it rounds to even and ncnn away from zero.
    """

    tensor: str
    group: str
    values: int
    differing: int
    differing_alone: int
    largest: int
    ties: int


def compare_integers(
    quantized: Quantized, model: onnx.ModelProto, qparams: QParams, batches: Iterable[npt.NDArray[np.float32]]
) -> list[IntegerDifference]:
    """Run both on the same pictures and compare the integers of every quantized tensor.

    Args:
        model: the float graph that was exported from `quantized`; `qparams` are its scales.
        batches: network inputs (1, 3, H, W).

    Returns:
        One row per int8 tensor, in the order of the graph.

    Raises:
        ExportError: the graph and the torch model do not have the same int8 tensors, or no batch was given.
    """
    pairs = _pair_tensors(quantized, model)
    groups = {tensor: name for name, group in qparams.groups.items() for tensor in group.tensors}
    session = _open_with_integers(insert_qdq(model, qparams), {tensor: groups[tensor] for tensor in pairs})
    recorder = _Recorder(quantized)
    names = _output_names(pairs, groups)
    counts = {tensor: np.zeros(3, np.int64) for tensor in pairs}
    largest = dict.fromkeys(pairs, 0)
    for batch in batches:
        engine = dict(zip(pairs.values(), session.run(names, {INPUT_NAME: batch}), strict=True))
        own, alone = recorder.record(batch), recorder.record(batch, replaced_by=engine)
        for tensor, name in pairs.items():
            steps = np.abs(own[name].astype(np.int16) - engine[name])
            differing_alone = np.count_nonzero(alone[name] != engine[name])
            counts[tensor] += (steps.size, np.count_nonzero(steps), differing_alone)
            largest[tensor] = max(largest[tensor], int(steps.max()))
    if not all(count[0] for count in counts.values()):
        raise ExportError("no pictures to compare integers on")
    rows = []
    for tensor, name in pairs.items():
        values, differing, alone_count = map(int, counts[tensor])
        group, ties = groups[tensor], recorder.ties[name]
        rows.append(IntegerDifference(tensor, group, values, differing, alone_count, largest[tensor], ties))
    return rows


def differing_part(rows: Sequence[IntegerDifference], *, alone: bool = False) -> float:
    """Part of all integers of all tensors that are not the same, in [0, 1]; `alone` as in `differing_alone`."""
    differing = sum(row.differing_alone if alone else row.differing for row in rows)
    return differing / sum(row.values for row in rows)


def _pair_tensors(quantized: Quantized, model: onnx.ModelProto) -> dict[str, str]:
    """Tensor of the ONNX graph -> fx node of the float deploy form, by the layers that read them, in graph order."""
    readers = weighted_nodes(model.graph)
    pairs: dict[str, str] = {}
    for path in quantized.placement.int8_layers():
        found = list(dict.fromkeys(node.input[0] for node in readers.get(f"{path}.weight", [])))
        expected = quantized.placement.layers[path].inputs
        if len(found) != len(expected):
            what = f"reads {len(found)} tensors in model.onnx and {len(expected)} in torch"
            raise ExportError(what, where=path, hint="Export again")
        pairs |= dict(zip(found, expected, strict=True))
    return pairs


def _output_names(tensors: Iterable[str], groups: Mapping[str, str]) -> list[str]:
    return [f"qdq/{tensor}/{groups[tensor]}/int8" for tensor in tensors]


def _open_with_integers(qdq: onnx.ModelProto, groups: Mapping[str, str]) -> onnxruntime.InferenceSession:
    """A session that also gives what each QuantizeLinear gives."""
    for name in _output_names(groups, groups):
        qdq.graph.output.append(helper.make_tensor_value_info(name, TensorProto.INT8, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(qdq.SerializeToString(), options, providers=["CPUExecutionProvider"])


class _Recorder(fx.Interpreter):
    """Runs the fake-quantized model and keeps the integers that leave each quantizer, by the tensor that entered it."""

    def __init__(self, quantized: Quantized) -> None:
        super().__init__(quantized.fake_quant)
        self._steps = {t: quantized.scales.groups[g] for t, g in quantized.placement.group_of_tensor().items()}
        self._integers: dict[str, Int8] = {}
        self._replaced_by: Mapping[str, Int8] = {}
        self.ties = dict.fromkeys(self._steps, 0)

    def record(self, batch: npt.NDArray[np.float32], replaced_by: Mapping[str, Int8] | None = None) -> dict[str, Int8]:
        """(B, 3, H, W) -> integers of each quantized tensor.

        Args:
            replaced_by: integers to go on with, after one's own have been kept, for the tensors named in it.
        """
        self._integers, self._replaced_by = {}, replaced_by or {}
        device = next(self.module.parameters()).device
        with torch.no_grad():
            self.run(torch.from_numpy(batch).to(device))
        return self._integers

    def run_node(self, n: fx.Node) -> object:
        """Run one node; keep the integers if it is a quantizer."""
        value = super().run_node(n)
        if not is_quantizer_call(n):
            return value
        tensor = n.all_input_nodes[0].name
        self._integers[tensor] = (value / self._steps[tensor]).round().to(torch.int8).cpu().numpy()
        if tensor not in self._replaced_by:
            (entering, *_), _ = self.fetch_args_kwargs_from_env(n)
            steps = entering / self._steps[tensor]
            self.ties[tensor] += int((steps - steps.floor() == 0.5).sum())
            return value
        return torch.from_numpy(self._replaced_by[tensor]).to(value) * self._steps[tensor]
