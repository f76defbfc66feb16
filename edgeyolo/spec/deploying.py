"""Options of `deploy`, `evaluate`, `inspect` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgeyolo.spec.detecting import DEFAULT_NMS, DEFAULT_SCORE_THRESHOLD, Nms
from edgeyolo.spec.settings import Share, WholeNumber
from edgeyolo.spec.sizes import BatchSize, ImageSize
from edgeyolo.spec.target import Precision
from edgeyolo.spec.transfer import DEFAULT_MATCH, Match


class DeployOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `deploy` builds besides the board's default.

    Attributes:
        image_size: side of the network's square input, or its height and width, pixels, for a checkpoint that is to run
            at another size than it was trained at; scales that `quantize` found hold for their own size only.
        batch: pictures that the engine takes at once: always four, say, or up to eight as 1-8 (TensorRT, OpenVINO, ONNX
            Runtime). ncnn runs the pictures of a batch one after another.
        precision: numbers of the network; the board's best that the source allows if not given.
        nms: how the bundle makes one box of several of one object: greedy removes by overlap, diou by overlap and
            distance of the centres, matrix lowers scores instead.
        data: data set to evaluate the bundle on, here; of an int8 one, also what stands for score thresholds of the
            float model.
        split: split of data; its validation split if not given.
        score_threshold: of the float model, from which on the bundle reports what it finds unless it is told another
            one.
        match: what an int8 bundle has at the threshold that stands for it as the float model has it.
        reference: the float model, a checkpoint, a folder that quantize wrote or a float bundle; the source's own
            model.onnx if not given, which QAT has trained on.
    """

    image_size: ImageSize | None = None
    batch: BatchSize = 1
    precision: Precision | None = None
    nms: Nms = DEFAULT_NMS
    data: Path | None = None
    split: str | None = None
    score_threshold: Share = DEFAULT_SCORE_THRESHOLD
    match: Match = DEFAULT_MATCH
    reference: Path | None = None


class DeployGates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must hold before `deploy` builds anything.

    Attributes:
        require_licence: refuse what is made of published weights under a licence of another kind.
    """

    require_licence: Literal["permissive"] | None = None


class EvaluateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `evaluate` measures on, and with how many threads.

    Attributes:
        split: split of the data set; its validation split if not given.
        threads: threads of the engine, 0 for the bundle's own number.
        nms: how several boxes of one object become one; as the bundle does it if not given, greedy for a checkpoint.
        boxes: of a bundle that finds joints, a detector's bundle whose boxes it is to look into; those that people drew
            if not given.
        record: write the score into the bundle's manifest.
        reference: with record, the float model of an int8 bundle, as deploy takes it: also find, and write, what stands
            for its score thresholds.
        score_threshold: with reference, the one of it that is shown, and used where no other is asked for; the bundle's
            own if not given, or 0.25.
        match: with reference, what is to stay as the float model has it; the bundle's own if not given, or precision.
        device: processor that computes a checkpoint: cpu, cuda or cuda:N; auto is CUDA where there is one.
    """

    split: str | None = None
    threads: WholeNumber = 0
    nms: Nms | None = None
    boxes: Path | None = None
    record: bool = False
    reference: Path | None = None
    score_threshold: Share | None = None
    match: Match | None = None
    device: str = "auto"


class InspectOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `inspect` looks at.

    Attributes:
        qdq: check how TensorRT runs an ONNX file with Q/DQ.
        layers: say in which precision the engine runs each layer of a bundle; of one for TensorRT, without a GPU, what
            its compiler makes of it.
    """

    qdq: bool = False
    layers: bool = False


class DoctorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `doctor` installs, where it is not only to look.

    Attributes:
        install: engine whose own environment is made, such as rknn; says what that is and asks first.
        yes: do not ask.
    """

    install: str | None = None
    yes: bool = False
