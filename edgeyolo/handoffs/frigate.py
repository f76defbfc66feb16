"""Frigate, a recorder for cameras: `model_type: yolo-generic` of its detectors `onnx` and `openvino`.

It resizes square pieces of the frame to the input, gives pixel / 255 in float32, and reads one output (1, 4 + K, N):
centre and size in input pixels, and the score of every class. It tells (4 + K, N) from (N, 4 + K) by which is larger.
Threshold 0.4, suppression at 0.4 over all classes together and 20 boxes are fixed there.
Source: docs.frigate.video, "Object Detectors", and frigate/util/model.py of Frigate 0.16 (MIT).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from edgeyolo.graph.qdq import insert_qdq
from edgeyolo.handoffs.program import MODEL, Program, describe_origin
from edgeyolo.heads import maps_head_of
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.target import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

_FOLDER = "/config/model_cache/edgeyolo"


class Frigate(Program):
    """ONNX with all scores, a label map with numbers, and the part of config.yml that names them."""

    name = "frigate"
    layout = "class-scores"
    labels_file = "labelmap.txt"
    config_file = "frigate.yml"

    def check(self, spec: ModelSpec) -> None:
        """See `Program.check`."""
        height, width = spec.input.image_hw
        if height != width:
            raise UsageError(
                f"the input is {height} x {width}, and Frigate gives square pictures",
                hint="Train and quantize it for a square, such as --image-size 320",
            )
        count = maps_head_of(spec.decode).count_rows(spec.input.image_hw)
        if 4 + len(spec.class_names) >= count:
            raise UsageError(
                f"{len(spec.class_names)} classes and {count} predictions: Frigate would take one for the other",
                hint="Use a larger --image-size",
            )

    def make_graph(self, model: ModelProto, qparams: QParams | None, precision: Precision) -> ModelProto:
        """See `Program.make_graph`."""
        return insert_qdq(model, qparams) if qparams else model

    def make_labels(self, spec: ModelSpec) -> str:
        """See `Program.make_labels`; with numbers, without which it would read a name's own digits as one."""
        return "".join(f"{number} {name}\n" for number, name in enumerate(spec.class_names))

    def make_config(self, spec: ModelSpec, precision: Precision) -> str:
        """See `Program.make_config`."""
        height, width = spec.input.image_hw
        return f"""\
# Merge into Frigate's config.yml; {MODEL} and {self.labels_file} belong in {_FOLDER}.
# {describe_origin(spec)}
detectors:
  edgeyolo:
    type: onnx  # or openvino, with a line `device: GPU` (CPU, NPU)

model:
  model_type: yolo-generic
  width: {width}
  height: {height}
  input_tensor: nchw
  input_dtype: float
  input_pixel_format: {spec.input.colour_order}
  path: {_FOLDER}/{MODEL}
  labelmap_path: {_FOLDER}/{self.labels_file}

objects:
  track: {json.dumps(list(spec.class_names), ensure_ascii=False)}
"""

    def list_steps(self, precision: Precision) -> list[str]:
        """See `Program.list_steps`."""
        return [
            f"Copy {MODEL} and {self.labels_file} to {_FOLDER} of Frigate, and {self.config_file} into its config.yml.",
            "Frigate's own limits hold there: scores from 0.4, at most 20 boxes in each piece of a frame.",
        ]


PROGRAM = Frigate()
