"""The one page that `edgeyolo demo` leaves: what each artefact scores, and what float and int8 see."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeyolo.report.page import fill_template
from edgeyolo.spec.atomic import write_file


@dataclass(frozen=True)
class DemoRow:
    """One artefact; None where a figure has no meaning.

    Attributes:
        ap, ap50: percent.
        size_bytes: size of the file.
        latency_ms: median of one `detect` call on this computer.
        link: the file, below the demo's folder.
    """

    artefact: str
    ap: float
    ap50: float
    size_bytes: int | None
    latency_ms: float | None
    link: str | None


@dataclass(frozen=True)
class DemoRun:
    """What was done, on what, and what came out.

    Attributes:
        image_size: side of the network's input, pixels.
        split: the one that AP was measured on.
        device: processor of this computer.
        took_s: seconds from the first picture to the last.
    """

    model: str
    image_size: int
    recipe: str
    split: str
    device: str
    took_s: float
    rows: tuple[DemoRow, ...]


def write_demo_page(run: DemoRun, folder: Path) -> None:
    """Write `index.html`, which shows `pictures/*.jpg`, and `report.json`.

    Raises:
        MissingPackageError: jinja2 is not installed. OutputError: the folder cannot be written.
    """
    pictures = [f"pictures/{path.name}" for path in sorted((folder / "pictures").glob("*.jpg"))]
    links = [
        (path, what)
        for path, what in (
            ("train/train.html", "how training went"),
            ("data/data.yaml", "the data set, in YOLO layout"),
            ("int8/qparams.json", "every scale of the int8 model"),
            ("report.json", "the figures of this page"),
        )
        if (folder / path).is_file()
    ]
    page = fill_template("demo.html.j2", needed_for="index.html", run=run, pictures=pictures, links=links)
    write_file(folder / "report.json", json.dumps(asdict(run), indent=2).encode() + b"\n")
    write_file(folder / "index.html", page.encode())
