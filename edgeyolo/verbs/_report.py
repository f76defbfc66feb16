"""`report`: bundles, folders and records of other verbs -> one page that shows them side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.machine import machine_here
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.scoreboard import ReportOptions, Scoreboard
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.target import needs_scales
from edgeyolo.verbs._artefacts import open_built

if TYPE_CHECKING:
    from edgeyolo.report.scoreboard import SideBySide
    from edgeyolo.runtime.detector import Detector


@dataclass(frozen=True)
class ReportResult:
    """The page that was written, its data, and how many pictures are on it."""

    page: Path
    board: Scoreboard
    pictures: int


def report(
    sources: Sequence[Path], options: ReportOptions | None = None, *, progress: Progress = SILENT
) -> ReportResult:
    """Write one page of everything that the sources say.

    Args:
        sources: bundles, folders that `train` or `quantize` wrote, and JSON: report.json, what `bench`, `estimate`,
            `inspect` or `report` says with --json, a fleet's table, rows of the scoreboard.

    Raises:
        UsageError: no source, one that is nothing of these, or pictures without a float artefact and an int8 one that
            run here. FormatError: a record that is broken or of a newer version, or two that disagree. BundleError,
            CheckpointError, DataError, OutputError, MissingPackageError: as their names say.
    """
    from edgeyolo.report.scoreboard import join, read_source, write_page

    options = options or ReportOptions()
    check_settings(options)
    if not sources:
        raise UsageError("nothing is given", hint="Give bundles, folders, or what other verbs say with --json")
    found = []
    for number, source in enumerate(sources, start=1):
        found.append((source, read_source(source)))
        progress.step("read", number, len(sources), source.name)
    board = join(found, title=options.title, published=options.published)
    pictures = [] if options.pictures is None else _compare(sources, options.pictures, options.show, progress)
    write_page(options.out, board, pictures)
    return ReportResult(options.out, board, len(pictures))


def _compare(sources: Sequence[Path], pictures: Path, show: int, progress: Progress) -> list[SideBySide]:
    """The pictures on which float and int8 differ, of each model that is there in both."""
    from edgeyolo.report.scoreboard import compare_on

    shown = []
    with contextlib.ExitStack() as opened:
        for float_one, int8_one in _pairs(sources, opened):
            detect, names = (float_one[1].detect, int8_one[1].detect), (float_one[0], int8_one[0])
            class_names = float_one[1].class_names
            shown += compare_on(pictures, detect, names, class_names, show=show, progress=progress)
    if not shown:
        hint = "Give a folder that `quantize` wrote, or a float bundle and an int8 one of the same model"
        raise UsageError("no model is there both in float and in int8 to run here", where=pictures, hint=hint)
    return shown


_Named = tuple[str, "Detector"]


def _pairs(sources: Sequence[Path], opened: contextlib.ExitStack) -> Iterator[tuple[_Named, _Named]]:
    """Float and int8, open, of each quantized folder and of bundles of the same model."""
    from edgeyolo.bundle import read_manifest
    from edgeyolo.runtime.detector import Detector

    bundles: dict[object, dict[bool, tuple[str, Path]]] = {}
    for source in sources:
        if (source / "qparams.json").is_file() and (source / "model.onnx").is_file():
            built = [opened.enter_context(open_built(source, "host-onnx", which)) for which in ("fp32", "int8")]
            float_one, int8_one = ((f"{one.spec.name} {one.name}", Detector(one.session, one.spec)) for one in built)
            yield float_one, int8_one
        elif source.suffix == ".eyb" or (source / "manifest.json").is_file():
            manifest = read_manifest(source)
            if manifest.machine in ("", machine_here()):
                artefact = manifest.artefact
                name = f"{manifest.model.name} {artefact.engine} {artefact.precision}"
                same_model = bundles.setdefault((manifest.model.name, manifest.model.class_names), {})
                same_model.setdefault(needs_scales(artefact.precision), (name, source))
    for pair in bundles.values():
        if len(pair) == len((True, False)):
            (float_name, float_path), (int8_name, int8_path) = pair[False], pair[True]
            loaded = [opened.enter_context(Detector.load(path)) for path in (float_path, int8_path)]
            yield (float_name, loaded[0]), (int8_name, loaded[1])
