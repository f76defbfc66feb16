"""A `.weights` of darknet: a short header, then float32 values, one layer after the other; names are nowhere in it.

Source: darknet's documented behaviour: three int32 (major, minor, revision), the number of pictures seen as uint64, or
int32 before version 0.2, then the values.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeyolo.spec.errors import CheckpointError

VALUES = "darknet"  # the one name that all the values have
_MOST_BYTES = 4 << 30
_LARGEST_REVISION = 99


def recognises(start: bytes) -> bool:
    """Whether darknet may have written a file that begins so: its versions are 0.1 and 0.2."""
    if len(start) < 12:
        return False
    major, minor, revision = struct.unpack("<3i", start[:12])
    return major == 0 and minor in (1, 2) and 0 <= revision <= _LARGEST_REVISION


def read(path: Path) -> dict[str, Tensor]:
    """All values as one flat tensor under the name `VALUES`.

    Raises:
        CheckpointError: unreadable, of no whole number of values, or too large.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            minor = struct.unpack("<3i", file.read(12))[1]
            header = 20 if minor >= 2 else 16
            if size > _MOST_BYTES or size <= header or (size - header) % 4:
                raise CheckpointError(
                    f"has {size} bytes, which is no header and a whole number of values",
                    where=path,
                    hint="Download or copy it again",
                )
            file.seek(header)
            values = np.fromfile(file, "<f4", (size - header) // 4)
    except (OSError, struct.error) as error:
        raise CheckpointError(f"cannot be read ({error})", where=path, hint="Download or copy it again") from None
    return {VALUES: torch.from_numpy(values)}
