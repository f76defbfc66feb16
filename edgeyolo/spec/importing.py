"""Options of `import`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeyolo.spec.foreign import HeadKind
from edgeyolo.spec.sizes import ImageSize

# All that `import` writes to the folder of an ONNX file.
IMPORTED_FILES = frozenset({"model.onnx", "model.json"})


class ImportOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `import` is told of a file of weights, or of an ONNX detector.

    Attributes:
        model: model of the zoo; guessed from the tensors if not given.
        names: text file with the name of a class on each line; the file's own, or COCO's where it has 80, if not given.
        image_size: side in pixels of the square input, or its height and width; the model's own if not given.
        cfg: of a darknet .weights, the .cfg that it was trained with: layers, classes, anchors and size are as it says.
        head: how the outputs of an ONNX file are read: raw maps as dfl, anchor or point, or decoded boxes; found by
            running it if not given.
        describe: what else is known of an ONNX file, a .toml; what it leaves out is guessed and shown.
    """

    model: str | None = None
    names: Path | None = None
    image_size: ImageSize | None = None
    cfg: Path | None = None
    head: HeadKind | None = None
    describe: Path | None = None
