"""What the YOLOv7 repository calls the tensors of each variant: a list of numbered layers.

Every row of the authors' configuration has a number, also those without weights (concatenation, pooling, up-sampling).
The rows are counted here in that order: stem, stages, SPPCSPC, neck down, neck up, head. Files come in two forms: for
training (implicit vectors, and auxiliary heads where there are any) and re-parameterised (neither).
Source: facts of the configurations that YOLOv7, arXiv 2207.02696, was published with.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgeyolo.models.yolov7.config import Yolov7Config
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.pretrained import Names, Published

_ANCHOR_TOLERANCE = 2e-3  # of half precision
_SPP = ("entry", "skip", "before.0", "before.1", "after.0", "after.1", "join")


class _Rows:
    """The numbered rows, written down one by one; `paths` is module here -> module there."""

    def __init__(self) -> None:
        self.paths: dict[str, str] = {}
        self.count = 0

    def add(self, *paths: str) -> None:
        """One row per path; an empty path is a row without weights."""
        for path in paths:
            if path:
                self.paths[path] = f"model.{self.count}"
            self.count += 1

    def add_block(self, path: str, inside: Mapping[str, str]) -> None:
        """One row whose module has parts: part here -> part there."""
        self.paths |= {f"{path}.{here}": f"model.{self.count}.{there}" for here, there in inside.items()}
        self.count += 1


def number_layers(config: Yolov7Config, *, auxiliary: bool) -> tuple[dict[str, str], str]:
    """Module here -> module there for all but the output layer, and the output layer's name there."""
    rows = _Rows()
    if config.reorg:
        rows.add("", "backbone.stem.0.conv")
    else:
        rows.add(*(f"backbone.stem.{i}" for i in range(len(config.stem_chs))))
    for position in range(len(config.stages)):
        first_is_conv = position == 0 and config.down != "wide"
        _add_down(rows, f"backbone.stages.{position}.0", "conv" if first_is_conv else config.down)
        _add_elan(rows, f"backbone.stages.{position}.1", config)
    if config.tiny_spp:
        rows.add("neck.spp.skip", "neck.spp.entry", "", "", "", "", "neck.spp.after", "", "neck.spp.join")
    else:
        rows.add_block("neck.spp", {part: f"cv{i}" for i, part in enumerate(_SPP, start=1)})
    for position in range(len(config.neck_chs) - 1):
        path = f"neck.merges.{position}"
        rows.add(f"{path}.reduce", "", f"{path}.lateral", "")
        _add_elan(rows, f"{path}.elan", config)
    for position in range(len(config.neck_chs) - 1):
        path = f"neck.rejoins.{position}"
        down = "conv" if config.down == "pool" else config.down
        _add_down(rows, f"{path}.down", down)
        if down != "pool-conv":  # whose own concatenation takes in the coarser map
            rows.add("")
        _add_elan(rows, f"{path}.elan", config)
    _add_transforms(rows, config, auxiliary=auxiliary)
    return rows.paths, f"model.{rows.count}"


def _add_down(rows: _Rows, path: str, kind: str) -> None:
    if kind == "pool":
        rows.add("")
    elif kind == "conv":
        rows.add(path)
    elif kind == "pool-conv":
        rows.add("", f"{path}.pooled", f"{path}.entry", f"{path}.strided", "")
    else:
        rows.add_block(path, {"entry": "cv1", "strided": "cv2", "pooled": "cv3"})


def _add_elan(rows: _Rows, path: str, config: Yolov7Config) -> None:
    for part in (f"{path}.first", f"{path}.second") if config.double else (path,):
        rows.add(f"{part}.skip", f"{part}.entry")
        rows.add(*(f"{part}.chain.{i}" for i in range(config.elan_depth)))
        rows.add("", f"{part}.join")
    if config.double:
        rows.add("")


def _add_transforms(rows: _Rows, config: Yolov7Config, *, auxiliary: bool) -> None:
    branches = {"dense.conv": "rbr_dense.0", "dense.bn": "rbr_dense.1"}
    branches |= {"point.conv": "rbr_1x1.0", "point.bn": "rbr_1x1.1"}
    for level in range(len(config.strides)):
        if config.rep_heads:
            rows.add_block(f"head.transforms.{level}", branches)
        else:
            rows.add(f"head.transforms.{level}")
    if auxiliary:
        rows.add(*(f"auxiliary.transforms.{level}" for level in range(len(config.strides))))


def _number_file(config: Yolov7Config, tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], str, bool]:
    """As `number_layers`, for the form that a file is in; and whether it has the auxiliary heads."""
    layers, output = number_layers(config, auxiliary=bool(config.auxiliary_chs))
    has_auxiliary = bool(config.auxiliary_chs)
    if has_auxiliary and f"{output}.m2.0.weight" not in tensors:
        bare_layers, bare_output = number_layers(config, auxiliary=False)
        if f"{bare_output}.m.0.weight" in tensors:
            return bare_layers, bare_output, False
    return layers, output, has_auxiliary


def _names(config: Yolov7Config, tensors: Mapping[str, Tensor], where: object) -> Names:
    layers, output, has_auxiliary = _number_file(config, tensors)
    _check_anchors(config, tensors, output, where)
    for level in range(len(config.strides)):
        path = f"head.outputs.{level}"
        layers |= {f"{path}.conv": f"{output}.m.{level}"}
        layers |= {f"{path}.offset": f"{output}.ia.{level}.implicit", f"{path}.scale": f"{output}.im.{level}.implicit"}
        if has_auxiliary:
            layers[f"auxiliary.outputs.{level}"] = f"{output}.m2.{level}"
    is_implicit = f"{output}.ia.0.implicit" in tensors
    return Names(
        modules=layers,
        ignored=(f"{output}.anchors", f"{output}.anchor_grid"),
        lacking=() if has_auxiliary or not config.auxiliary_chs else ("auxiliary.",),
        neutral={} if is_implicit else {"offset": 0.0, "scale": 1.0},
    )


def _check_anchors(config: Yolov7Config, tensors: Mapping[str, Tensor], output: str, where: object) -> None:
    """Raise CheckpointError where the file's anchors are others than the model's: its boxes would be wrong."""
    theirs = tensors.get(f"{output}.anchor_grid")
    ours = torch.tensor(config.anchors_wh, dtype=torch.float32)
    if theirs is None or theirs.numel() != ours.numel():
        return  # the shapes of the output layer tell that it is of another model
    wh = theirs.float().reshape(ours.shape)
    if not torch.allclose(wh, ours, rtol=_ANCHOR_TOLERANCE):
        level = int((wh - ours).abs().flatten(1).amax(dim=1).argmax())
        sizes = ", ".join(f"{w:g}x{h:g}" for w, h in wh[level].tolist())
        raise CheckpointError(
            f"was trained with other anchors than {config.name}: {sizes} at stride {config.strides[level]}",
            where=where,
            hint="Its boxes would be wrong; train without automatic anchors (--noautoanchor there)",
        )


def _count_classes(config: Yolov7Config, tensors: Mapping[str, Tensor]) -> int | None:
    output = _number_file(config, tensors)[1]
    weight = tensors.get(f"{output}.m.0.weight")
    if weight is None or weight.dim() == 0:
        return None
    classes, rest = divmod(weight.shape[0], len(config.anchors_wh[0]))
    return classes - 5 if rest == 0 and classes > 5 else None


PUBLISHED = Published(
    source="the YOLOv7 repository",
    licence="GPL-3.0",
    variants=("yolov7-tiny", "yolov7", "yolov7x", "yolov7-w6", "yolov7-e6", "yolov7-d6", "yolov7-e6e"),
    outputs=".outputs.",
    count_classes=_count_classes,
    names=_names,
)
