"""`estimate`: a bundle, a quantized folder or a checkpoint -> how long it takes on boards that are not here."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.errors import BackendError, MissingPackageError, UsageError
from edgeyolo.spec.latency import Estimate, EstimateOptions
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.target import Precision, load_target, needs_scales
from edgeyolo.spec.work import Convolution, count_gflops
from edgeyolo.verbs._deploy import check_onnx, model_folder

if TYPE_CHECKING:
    from edgeyolo.backends import Session
    from edgeyolo.latency.here import HereTime

_ENGINE = "ncnn"  # whose files say what a network computes, and which the boards were measured with


@dataclass(frozen=True)
class EstimateResult:
    """What `estimate` found.

    Attributes:
        model: name of the model.
        gflops: of its convolutions.
        estimates: the fastest board first.
        here: its time on this computer, None where it was not timed.
        notes: what whoever reads them should be told.
    """

    model: str
    gflops: float
    estimates: tuple[Estimate, ...]
    here: HereTime | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A network to be estimated: what it is, and how to open it here in one thread, where it can be."""

    name: str
    image_hw: tuple[int, int]
    precision: Precision
    convolutions: Sequence[Convolution]
    open: Callable[[], Session] | None
    target: str = ""


def estimate(source: Path, options: EstimateOptions | None = None, *, progress: Progress = SILENT) -> EstimateResult:
    """How long a network takes on boards that are not here, as ranges.

    Args:
        source: a bundle for an ncnn board, a folder that `quantize` wrote, a float checkpoint, or the name of a model,
            which is not timed here.

    Raises:
        UnknownNameError: no such board. UsageError: no board given, a bundle that does not say what it computes, a
            precision that the source does not have or of which nothing is published. MissingPackageError,
            BackendError, BundleError: as their names say.
    """
    from edgeyolo.latency import Network
    from edgeyolo.latency import estimate as estimate_latency

    options = options or EstimateOptions()
    check_settings(options)
    named = [board for name in options.board for board in _boards_of(name)]
    with _opened(source, options.precision) as network:
        boards = _choose_boards(named, network.target, options)
        here: HereTime | None = None
        notes: list[str] = []
        if options.measure and network.open is not None and _any_processor(boards):
            here, notes = _time(network, network.open, progress)
        known_ms, doubt = (None, 0.0) if here is None else (here.known_ms, here.doubt)
        wanted = Network(network.convolutions, network.precision, known_ms, doubt)
        found = []
        for board in boards:
            try:
                found.append(estimate_latency(wanted, board, threads=options.threads))
            except UsageError as error:
                if board in named:
                    raise
                notes.append(f"{board} is left out: {error.what}")
    ordered = tuple(sorted(found, key=lambda one: one.middle_ms))
    return EstimateResult(network.name, count_gflops(network.convolutions), ordered, here, tuple(notes))


def _boards_of(name: str) -> list[str]:
    from edgeyolo.latency import boards_of

    return boards_of(name)


def _choose_boards(named: list[str], target: str, options: EstimateOptions) -> list[str]:
    from edgeyolo.latency import list_boards

    if options.all:
        return list_boards()
    if named:
        return list(dict.fromkeys(named))
    if not target:
        raise UsageError("no board is given", hint=f"Give --all, or --board with one of: {', '.join(list_boards())}")
    return _boards_of(target)


def _any_processor(boards: list[str]) -> bool:
    from edgeyolo.latency import load_board

    return any(load_board(board).runs for board in boards)


@contextlib.contextmanager
def _opened(source: Path, precision: Precision | None) -> Iterator[_Source]:
    from edgeyolo import backends

    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        if source.suffix == ".eyb" or (source / "manifest.json").is_file():
            yield from _of_bundle(source, precision)
            return
        if not source.exists() and (model := _of_model(str(source), precision)) is not None:
            yield model
            return
        with model_folder(source) as folder:
            record = load_json(folder / "model.json", ModelRecord)
            check_onnx(folder, record)
            scales = folder / "qparams.json"
            chosen: Precision = precision or ("int8" if scales.is_file() else "fp16")
            if chosen == "int8" and not scales.is_file():
                raise UsageError("int8 needs qparams.json", where=source, hint="Run `edgeyolo quantize` first")
            qparams = load_qparams(scales) if needs_scales(chosen) else None
            engine, out = backends.load_engine(_ENGINE), Path(work)
            here = load_target(engine.host_target())
            built: Precision = chosen if chosen in here.precisions else "fp32"
            artefact = backends.build(folder / "model.onnx", record.model, qparams, here, out, precision=built)
            yield _Source(
                record.model.name,
                record.model.input.image_hw,
                chosen,
                engine.list_convolutions(out, artefact, record.model),
                lambda: backends.open_artefact(out, artefact, record.model, threads=1),
            )


def _of_bundle(source: Path, precision: Precision | None) -> Iterator[_Source]:
    from edgeyolo import backends
    from edgeyolo.bundle import open_bundle
    from edgeyolo.runtime.processor import open_session

    with open_bundle(source) as bundle:
        manifest = bundle.manifest
        if precision is not None and precision != manifest.artefact.precision:
            raise UsageError(
                f"the bundle is in {manifest.artefact.precision}, not in {precision}",
                where=source,
                hint="Leave --precision out, or give the folder of `edgeyolo quantize`",
            )
        engine = backends.load_engine(manifest.artefact.engine)
        try:
            convolutions = engine.list_convolutions(bundle.folder, manifest.artefact, manifest.model)
        except UsageError as error:
            raise UsageError(error.what, where=source, hint=error.hint) from None
        yield _Source(
            manifest.model.name,
            manifest.model.input.image_hw,
            manifest.artefact.precision,
            convolutions,
            lambda: open_session(bundle.folder, manifest, threads=1),
            manifest.target,
        )


def _of_model(name: str, precision: Precision | None) -> _Source | None:
    """A model of the registry at its own size, in int8 if nothing else is said; None where it has none of the name."""
    from edgeyolo import models

    if name not in models.model_names():
        return None
    chosen = precision or "int8"
    convolutions = [replace(one, is_int8=needs_scales(chosen)) for one in models.convolutions_of(name)]
    return _Source(name, (0, 0), chosen, convolutions, None)


def _time(
    network: _Source, open_session: Callable[[], Session], progress: Progress
) -> tuple[HereTime | None, list[str]]:
    """Its time here, and what to say of it; none where it does not run here."""
    import numpy as np

    from edgeyolo import backends
    from edgeyolo.latency import time_here

    progress.step("estimate", 0, 1, "timing it on this computer, in one thread")
    try:
        rulers = backends.load_engine(_ENGINE).open_rulers()
        session = open_session()
    except (MissingPackageError, BackendError) as error:
        progress.step("estimate", 1, 1, "not timed")
        return None, [f"It was not timed here, so the ranges are wider: {error}"]
    try:
        images = np.zeros((1, 3, *network.image_hw), np.float32)
        here = time_here(lambda: session.run(images), network.convolutions, rulers)
    finally:
        session.close()
    progress.step("estimate", 1, 1, f"{here.here_ms:.1f} ms on this computer, in one thread")
    busy = ["This computer had other work meanwhile: estimate again when it is idle"] if here.is_busy else []
    return here, busy
