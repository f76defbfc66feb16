"""Options of `quantize`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeyolo.spec.settings import WholeNumber
from edgeyolo.spec.sizes import ImageSize

# All that `quantize` writes to its folder, in this version and earlier ones.
QUANTIZED_FILES = frozenset(
    {
        "model.onnx",
        "model.json",
        "qparams.json",
        "report.json",
        "report.html",
        "sensitivity.png",
        "graph.dot",
        "graph.svg",
    }
)


class QuantizeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `quantize` does besides calibrating.

    Attributes:
        qat: train on with quantization in the loop, as the recipe says.
        sparsity: 2:4 makes two weights of every four input channels zero and, with qat, trains the others; TensorRT
            runs such layers faster on GPUs from Ampere on, Orin among them.
        max_drop: AP points that the artefact for the target may lose; layers are kept float until it holds.
        target: board that max_drop is about.
        sensitivity: measure what each scale group costs.
        sensitivity_groups: groups that sensitivity also measures by mAP, the most costly first.
        explain: say why each layer is int8 or float, and write graph.dot.
        evaluate: measure the float and the fake-quantized model.
        report: also measure what the engines of this computer make of it, and write report.html; not without evaluate.
        split: split that scores are taken on; the validation split if not given.
        resume: go on with an interrupted training or measurement.
        doctor: look at the calibration pictures first, and refuse those that would spoil the scales.
        accept: go on with what is found of this name, such as held-out, all the same; may be given again.
        check_only: look at the calibration pictures, and do nothing else.
        image_size: side of the network's square input, or its height and width, pixels, that it is calibrated for; as
            trained if not given.
        device: processor that calibrates, trains and measures torch models: cpu, cuda or cuda:N; auto is CUDA where
            there is one.
    """

    qat: bool = False
    sparsity: Literal["2:4"] | None = None
    max_drop: Annotated[float, Meta(ge=0, le=100)] | None = None
    target: str = "host-cpu"
    sensitivity: bool = False
    sensitivity_groups: WholeNumber = 8
    explain: bool = False
    evaluate: bool = True
    report: bool = True
    split: str | None = None
    resume: bool = False
    doctor: bool = True
    accept: tuple[str, ...] = ()
    check_only: bool = False
    image_size: ImageSize | None = None
    device: str = "auto"

    @property
    def needs_labels(self) -> bool:
        """Whether anything is measured or trained; calibration alone takes any pictures."""
        return self.evaluate or self.qat or self.sensitivity or self.max_drop is not None
