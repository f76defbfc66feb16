"""DeepStream 7.1 and later (TensorRT 10): Gst-nvinfer, with the output parser of DeepStream-Yolo.

nvinfer scales by `y = net-scale-factor * (x - offsets)` and letterboxes with black. The parser `NvDsInferParseYolo`
reads one output (B, N, 6): left, top, right, bottom in input pixels, score, class id. nvinfer suppresses per class.
It cannot build a network with Q/DQ itself (without a calibration file it falls back to FP16), so trtexec does, once.
Source: docs.nvidia.com, DeepStream Development Guide, "Gst-nvinfer"; DeepStream-Yolo, nvdsparsebbox_Yolo.cpp (MIT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeyolo.graph.batch import with_batch
from edgeyolo.handoffs.program import MODEL, Program, describe_origin
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.sizes import MOST_BATCH
from edgeyolo.spec.target import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

_NETWORK_MODES = {"fp32": 0, "int8": 1, "fp16": 2}
_PLAN = "model.plan"
_PARSER = "nvdsinfer_custom_impl_Yolo/libnvdsinfer_custom_impl_Yolo.so"


class DeepStream(Program):
    """ONNX with the best class of each box and an open batch, labels, and nvinfer's configuration."""

    name = "deepstream"
    layout = "best-class"
    labels_file = "labels.txt"
    config_file = "config_infer_primary.txt"

    def check(self, spec: ModelSpec) -> None:
        """See `Program.check`."""
        if any(";" in name for name in spec.class_names):
            raise UsageError("a class name has a semicolon, which ends a label in DeepStream", hint="Rename it")

    def make_graph(self, model: ModelProto, qparams: QParams | None, precision: Precision) -> ModelProto:
        """See `Program.make_graph`; types as the graph states them."""
        from edgeyolo.backends.tensorrt.network import make_network
        from edgeyolo.backends.tensorrt.options import Options

        network = make_network(
            with_batch(model, (1, MOST_BATCH)), qparams, Options(), precision=precision, postprocess=None
        )
        return network.model

    def make_labels(self, spec: ModelSpec) -> str:
        """See `Program.make_labels`."""
        return "".join(f"{name}\n" for name in spec.class_names)

    def make_config(self, spec: ModelSpec, precision: Precision) -> str:
        """See `Program.make_config`."""
        height, width = spec.input.image_hw
        return f"""\
# {describe_origin(spec)}
# Build the plan once, on the machine that runs it. For several cameras, put their number in the place of 1 in
# batch-size, and in that of the batch of optShapes and maxShapes:
# {_trtexec(height, width, precision)}
[property]
gpu-id=0
net-scale-factor={1 / 255!r}
offsets=0;0;0
model-color-format={0 if spec.input.colour_order == "rgb" else 1}
onnx-file={MODEL}
model-engine-file={_PLAN}
labelfile-path={self.labels_file}
batch-size=1
network-mode={_NETWORK_MODES[precision]}
num-detected-classes={len(spec.class_names)}
interval=0
gie-unique-id=1
process-mode=1
network-type=0
cluster-mode=2
infer-dims=3;{height};{width}
maintain-aspect-ratio=1
symmetric-padding={1 if spec.input.letterbox_alignment == "center" else 0}
parse-bbox-func-name=NvDsInferParseYolo
custom-lib-path={_PARSER}

[class-attrs-all]
pre-cluster-threshold=0.25
nms-iou-threshold=0.45
topk=300
"""

    def list_steps(self, precision: Precision) -> list[str]:
        """See `Program.list_steps`."""
        return [
            f"Build {_PLAN} where it runs, with the trtexec line at the head of {self.config_file}.",
            f"The parser is DeepStream-Yolo's library; set custom-lib-path to where it is ({_PARSER}).",
        ]


def _trtexec(height: int, width: int, precision: Precision) -> str:
    from edgeyolo.backends.tensorrt.network import trtexec_command
    from edgeyolo.backends.tensorrt.options import Options

    return trtexec_command(Options(), precision, [0, 3, height, width])


PROGRAM = DeepStream()
