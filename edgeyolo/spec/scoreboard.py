"""The data of the page that `report` writes: rows, and the runs of `bench` that times in them are from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeyolo.spec.benchmark import BenchRecord
from edgeyolo.spec.figure import ScoreboardRow
from edgeyolo.spec.settings import Count

FORMAT_VERSION = 1


class TimedRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of `bench`.

    Attributes:
        device: as figures of the rows name it.
    """

    device: str
    record: BenchRecord


class Scoreboard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything on the page but its pictures; `report` reads it, too.

    Attributes:
        created: ISO 8601, UTC.
        notes: what whoever reads it should be told.
    """

    format_version: int = FORMAT_VERSION
    title: str
    created: str
    rows: tuple[ScoreboardRow, ...]
    runs: tuple[TimedRun, ...] = ()
    notes: tuple[str, ...] = ()


class ReportOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `report` writes.

    Attributes:
        out: page to write (.html).
        title: of the page.
        published: add what others published of the same models.
        pictures: picture or folder of pictures, on which float and int8 are shown side by side; for a folder that
            quantize wrote, or a float bundle and an int8 one of the same model that run here.
        show: of these pictures, so many on which the two differ most.
    """

    out: Path = Path("scoreboard.html")
    title: str = "Scoreboard"
    published: bool = False
    pictures: Path | None = None
    show: Count = 4
