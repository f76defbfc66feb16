"""Options of `import`."""

from __future__ import annotations

from pathlib import Path

import msgspec


class ImportOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `import` is told of a file of weights.

    Attributes:
        model: model of the zoo; guessed from the tensors if not given.
        names: text file with the name of a class on each line; COCO's if not given and the file has 80 classes.
        image_size: side in pixels of the square input; the model's own if not given.
    """

    model: str | None = None
    names: Path | None = None
    image_size: int | None = None
