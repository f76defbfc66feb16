"""What the runtime must know of a model: its input, how its raw maps become boxes, and its classes."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeyolo.spec.figure import Kind
from edgeyolo.spec.receptive_field import ReceptiveField

FORMAT_VERSION = 1

PixelType = Literal["float32", "uint8"]

_PERMISSIVE = frozenset(
    {"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "CC0-1.0", "Unlicense"} | {"LicenseRef-public-domain"}
)


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network's input, (B, 3, H, W) float32: `(pixel / 255 - mean) / std` of the letterboxed picture.

    Or that picture itself, (B, H, W, 3) uint8 in OpenCV's BGR, where the graph does the rest; or the camera's picture,
    (B, h, w, 3) uint8 BGR of one size, where the graph letterboxes it, too.

    Attributes:
        image_hw: height and width in pixels, each a multiple of the coarsest stride.
        colour_order: order of the three channels.
        mean, std: per channel, in units of pixel / 255, in `colour_order`.
        letterbox_value: grey of the padding, 0-255.
        letterbox_alignment: where the resized picture stands on the canvas.
        batch: fewest and most pictures that the engine takes in one call: (4, 4) for four, always, and (1, 8) for up to
            eight. More are given one call after another; what is missing of a fixed number is filled up.
        pixels: type of the input: floats, or the bytes of the picture.
        frame_hw: height and width of the bytes' pictures where the graph letterboxes them.
    """

    image_hw: tuple[int, int]
    colour_order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    letterbox_value: int = 114
    letterbox_alignment: Literal["center", "top-left"] = "center"
    batch: tuple[int, int] = (1, 1)
    pixels: PixelType = "float32"
    frame_hw: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture's input: (3, H, W), or (H, W, 3) for bytes, or (h, w, 3) for those of a whole frame."""
        return (3, *self.image_hw) if self.pixels == "float32" else (*(self.frame_hw or self.image_hw), 3)


class AnchorDecode(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="anchor"
):
    """Anchor heads (YOLOv2 to v5, YOLOv7, PP-YOLO): one map (B, anchors x (5 + K), H/s, W/s) per level, finest first.

    Channels are anchor-major: for anchor a, `a * (5 + K) + (tx, ty, tw, th, objectness, class 0 ... K-1)`.
    With the sigmoid of each: centre = (g t_xy - (g - 1) / 2 + cell_xy) x stride, size = (2 t_wh)^2 x anchor_wh,
    score of class k = objectness x class k. Pixels are input pixels.

    With an `iou_power` p, one more logit for each anchor, of its box's overlap, stands before all of these channels,
    (B, anchors x (6 + K), H/s, W/s), and objectness^(1 - p) x overlap^p takes the place of the objectness.

    Attributes:
        size: how tw and th become a size: "square" as said, "exp" by exp(t_wh) x anchor_wh, t_wh at most 16 (YOLOv3
            and v4).
        reach: g of each level, at least 1; 2 for all where it is empty.
        iou_power: p, in [0, 1); 0 where no overlap is predicted. Source: PP-YOLO, arXiv 2007.12099, section 3.3.
        classes: whether a class's share is the sigmoid of its logit, or the softmax's (YOLOv2).
    """

    strides: tuple[int, ...]
    anchors_wh: tuple[tuple[tuple[float, float], ...], ...]
    size: Literal["square", "exp"] = "square"
    reach: tuple[float, ...] = ()
    iou_power: float = 0.0
    classes: Literal["sigmoid", "softmax"] = "sigmoid"

    @property
    def output_count(self) -> int:
        """How many raw maps the network gives."""
        return len(self.strides)


class GridDecode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="grid"):
    """The grid of YOLOv1: one map (B, boxes x 5 + K, H/s, W/s) of plain numbers, no logits.

    Channels: for box b, `b * 5 + (x, y, w, h, confidence)`, then K classes, which the boxes of a cell share.
    centre = (xy + cell_xy) x stride, size = wh^2 x the input's size, score of class k = confidence x class k, both
    clipped to 0-1. Pixels are input pixels.
    Source: YOLO, arXiv 1506.02640, section 2; w and h are the roots of equation 3.

    Attributes:
        boxes: of each cell.
    """

    strides: tuple[int, ...]
    boxes: int

    @property
    def output_count(self) -> int:
        """How many raw maps the network gives."""
        return len(self.strides)


class DflDecode(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="dfl"
):
    """Distribution heads (PP-YOLOE): per level class logits (B, K, H/s, W/s), then box logits (B, 4 x bins, H/s, W/s).

    Box channels are side-major: side j (left, top, right, bottom) holds `j * bins + (0 ... bins-1)`.
    distance = sum_i i x softmax(bins)_i in strides, from the point (cell + offset) x stride; score = sigmoid(class).
    Source: Generalized Focal Loss, arXiv 2006.04388, eq. 4.

    Attributes:
        offset: of the point in its cell, strides: 0.5 for the middle, 0 for the top left corner (DAMO-YOLO). The middle
            is not written down, for readers that know no other.
    """

    strides: tuple[int, ...]
    bins: int
    offset: float = 0.5

    @property
    def output_count(self) -> int:
        """How many raw maps the network gives."""
        return 2 * len(self.strides)


class PointDecode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="point"):
    """One box of four values for each cell (YOLOX, small YOLOv6): per level class logits (B, K, H/s, W/s), objectness
    (B, 1, H/s, W/s) if there is one, then box values (B, 4, H/s, W/s).

    score of class k = sigmoid(class k), times sigmoid(objectness) if there is one.

    Attributes:
        strides: input pixels per cell, finest level first.
        box: what the four values are. "centre": tx, ty, tw, th with centre = (t_xy + cell_xy) x stride, size =
            exp(t_wh) x stride, t_wh at most 16. "sides": left, top, right, bottom in strides, from the point
            (cell + 0.5) x stride.
        objectness: whether there is such a map.
    """

    strides: tuple[int, ...]
    box: Literal["centre", "sides"]
    objectness: bool

    @property
    def output_count(self) -> int:
        """How many raw maps the network gives."""
        return (3 if self.objectness else 2) * len(self.strides)


class BoxesDecode(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="boxes"
):
    """A network that gives decoded boxes and scores itself: one output (B, 4 + 1 + K, N), without the 1 where there is
    no objectness.

    Of each prediction: box in input pixels, objectness, scores of the classes. Both are shares, no logits; score of
    class k = class k, times objectness if there is one.

    Attributes:
        strides: of the cells that predictions stand for, finest first; (1,) where that is not known.
        rows: N.
        box: what the four values are; the centre comes first in "cxcywh".
        objectness: whether there is one.
    """

    strides: tuple[int, ...]
    rows: int
    box: Literal["cxcywh", "xyxy"] = "cxcywh"
    objectness: bool = False

    @property
    def output_count(self) -> int:
        """How many outputs the network gives."""
        return 1


class GraphDecode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="graph"):
    """Decoded inside the graph: what leaves it are the best candidates of each picture, best first, before NMS.

    Outputs, in this order: "boxes_xyxy" (B, N, 4) float32 input pixels, "scores" (B, N) float32, "class_ids" (B, N)
    int32. A prediction stands for its best class only, also where every class is asked for, as for mAP.

    Attributes:
        strides: of the raw maps inside.
        candidates: N.
    """

    strides: tuple[int, ...]
    candidates: int

    @property
    def output_count(self) -> int:
        """How many outputs the network gives."""
        return 3


class RowsDecode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="rows"):
    """Decoded inside the graph into one output, "rows", that other programs read: all N predictions, before NMS.

    Pixels are input pixels; a score has the objectness in it.

    Attributes:
        strides: of the raw maps inside.
        layout: "class-scores": (B, 4 + K, N), centre x and y, width, height, then the score of every class.
            "best-class": (B, N, 6), left, top, right, bottom, the best class's score, and its id.
        predictions: N.
    """

    strides: tuple[int, ...]
    layout: Literal["class-scores", "best-class"]
    predictions: int

    @property
    def output_count(self) -> int:
        """How many outputs the network gives."""
        return 1


class HeatmapDecode(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="heatmap"
):
    """Joints of one person who fills the picture (HRNet): one heat map for each joint, (B, K, H/s, W/s).

    A joint is where its map is highest, moved a quarter of a cell towards the higher neighbour along each axis; its
    score is the map's value there. The centre of cell (i, j) is at the input pixel (i, j) x stride.
    Source: arXiv 1902.09212, section 3.

    Attributes:
        strides: input pixels per cell, of the one level that there is.
        margin: the part of the picture that is cut out for a person is so many times as large as its box.
        skeleton: pairs of joints that are drawn with a line between them.
    """

    strides: tuple[int, ...]
    margin: float = 1.25
    skeleton: tuple[tuple[int, int], ...] = ()

    @property
    def output_count(self) -> int:
        """How many raw maps the network gives."""
        return 1


RawDecode = AnchorDecode | DflDecode | GridDecode | PointDecode
TrainedDecode = RawDecode | HeatmapDecode
Decode = TrainedDecode | BoxesDecode | GraphDecode | RowsDecode


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Weights that somebody else has published.

    Attributes:
        source: who.
        licence: theirs, an SPDX name.
        file: its name.
        sha256: of the file.
    """

    source: str
    licence: str
    file: str
    sha256: str

    @property
    def is_permissive(self) -> bool:
        """Whether what is made of them may be shipped without its source."""
        return self.licence in _PERMISSIVE


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A network as data: everything between a picture and its boxes, or joints, except the network itself.

    Attributes:
        name: model name as in `edgeyolo models`, such as "yolov7-tiny".
        activation: the activation of its hidden layers.
        class_names: K names; class id is the position. Of a network that finds joints, theirs.
        origin: the weights that its own are, or began as; None where all were made here.
        structure: the cfg of darknet's that describes its layers, where it is no model of the registry.
    """

    name: str
    activation: str
    class_names: tuple[str, ...]
    input: InputSpec
    decode: Decode
    origin: Origin | None = None
    structure: str = ""

    @property
    def output_count(self) -> int:
        """How many raw maps the network gives."""
        return self.decode.output_count


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Accuracy of one artefact on one split, COCO definitions, AP in percent (0-100); -1 where undefined.

    Attributes:
        artefact: what was measured: "float torch", "fake-quant torch", "onnxruntime int8", "ncnn int8" ...
        data: name of the data set folder or file.
        images, boxes: how many were evaluated.
        per_class: AP of each class by name.
        kind: whether the artefact itself ran, or a vendor's simulator of its board.
    """

    artefact: str
    data: str
    split: str
    images: int
    boxes: int
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    per_class: dict[str, float] = {}
    kind: Kind = "measured"


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Time of one `detect` call, milliseconds, measured on the device that is named."""

    device: str
    threads: int
    runs: int
    total_ms_median: float
    total_ms_p90: float
    network_ms_median: float


class ModelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`model.json`: stands beside `model.onnx` (and `qparams.json`) in a folder written by `edgeyolo quantize`.

    Attributes:
        onnx_sha256: of the `model.onnx` beside it.
        receptive_fields: of each level, finest first.
        checkpoint_sha256: of the checkpoint it came from, "" for random weights.
        scores: measured so far, the float model first.
        tools: package name -> version.
    """

    format_version: int = FORMAT_VERSION
    model: ModelSpec
    onnx_sha256: str
    receptive_fields: tuple[ReceptiveField, ...] = ()
    checkpoint_sha256: str = ""
    scores: tuple[Score, ...] = ()
    tools: dict[str, str] = {}
