"""`bench --csv`: a row of figures per bundle and board, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeyolo.cli.console import Console
from edgeyolo.spec.atomic import write_file

_FIELDS = ("host", "bundle", "target", "engine", "precision", "device", "date", "threads", "runs")
_PARTS = ("total", "network", "pre", "post")
_LEVELS = ("median_ms", "p90_ms", "p99_ms")
_FIGURES = ("per_second", "load_ms", "first_ms", "peak_memory_mib")
_CONDITIONS = ("temperature_c", "clock_mhz", "governor")


def write_csv(path: Path, records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Write records as `bench --json` gives them; "host" is empty for this computer.

    Raises:
        OutputError: it cannot be written.
    """
    text = io.StringIO()
    names = [f"{part}_{level}" for part in _PARTS for level in _LEVELS]
    names += [f"{name}_{moment}" for name in _CONDITIONS for moment in ("before", "after")]
    writer = csv.DictWriter(text, [*_FIELDS, *names, *_FIGURES, "throttled"], extrasaction="ignore")
    writer.writeheader()
    for record in records:
        row = {name: record.get(name, "") for name in (*_FIELDS, *_FIGURES)}
        row |= {f"{part}_{level}": record["spread"][part][level] for part in _PARTS for level in _LEVELS}
        row |= {f"{name}_{m}": record[m][name] for name in _CONDITIONS for m in ("before", "after")}
        writer.writerow({**row, "throttled": "; ".join(record["throttled"])})
    write_file(path, text.getvalue().encode())
    console.say(f"Wrote {path}")
