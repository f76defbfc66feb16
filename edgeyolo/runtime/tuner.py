"""Find how a bundle runs fastest on this device: engine options, threads, and which int8 layers pay.

One change after the other is raced against the best so far (`race`), in the order that the engine gives; it is kept
if it is faster beyond noise and the accuracy budget holds. All of them together are then timed against the bundle as
it was deployed, for a fixed number of rounds, and once more for the record, so that no figure is of a lucky moment.
The files of the bundle stay as they are: what was chosen is written into its manifest, with the table of all that was
tried, and the runtime uses it on this device from then on.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from edgeyolo.backends import Session, load_engine, open_artefact
from edgeyolo.bundle import open_bundle, rewrite_manifest
from edgeyolo.bundle.reader import Bundle
from edgeyolo.bundle.tuned import as_deployed, split_scores
from edgeyolo.geometry.network_input import make_input
from edgeyolo.runtime.processor import check_engine, check_processor
from edgeyolo.runtime.race import Verdict, measure, race
from edgeyolo.spec.detections import Float32, Image
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.machine import machine_here, processor_name
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.tuning import Choice, Setup, Tuning, TuningRow

MAX_DIFFERENCE = 0.05  # of raw maps, rms / std, where no data say what it costs
_STAGE = "tune"

Scorer = Callable[[Session], float]


@dataclass(frozen=True)
class Step:
    """A setup that became the best, and the row of the table that says so."""

    setup: Setup
    row: int


def tune(
    path: Path,
    images: Sequence[Image],
    *,
    score: Scorer | None = None,
    max_drop: float = 0.3,
    progress: Progress = SILENT,
) -> Manifest:
    """Tune the bundle at `path` for this device and write the result into its manifest.

    It always starts from the bundle as it was deployed, so tuning twice finds the same where the device is the same.

    Args:
        images: (H, W, 3) uint8 BGR pictures such as the board will see; the raw maps of a choice may not leave those of
            the bundle as deployed by more than `MAX_DIFFERENCE` where `score` is not given.
        score: AP of a session in percent, for the accuracy budget.
        max_drop: most AP that tuning may cost; choices are taken back, the latest first, until it holds.

    Raises:
        UsageError: nothing to tune for its engine, a bundle for another kind of computer, no picture, or a negative
            `max_drop`. Errors of opening a bundle.
    """
    if not images:
        raise UsageError("no picture to tune on", hint="Give --image or --data")
    if max_drop < 0:
        raise UsageError(f"max_drop is {max_drop}", hint="It must be at least 0")
    with open_bundle(path) as bundle:
        _check_machine(path, bundle.manifest)
        check_processor(bundle.manifest)
        check_engine(bundle.folder, bundle.manifest)
        tuned = _Tuner(bundle, images, score, max_drop, progress).run()
    return rewrite_manifest(path, tuned)


def _check_machine(path: Path, manifest: Manifest) -> None:
    if manifest.machine not in ("", machine_here()):
        raise UsageError(
            f"the bundle is for {manifest.target} ({manifest.machine}), and this computer is {machine_here()}",
            where=path,
            hint="Tune it on the board: what is fastest here need not be so there",
        )


class _Tuner:
    """One bundle on its way to the fastest setup."""

    def __init__(
        self, bundle: Bundle, images: Sequence[Image], score: Scorer | None, max_drop: float, progress: Progress
    ) -> None:
        self._folder = bundle.folder
        self._manifest = as_deployed(bundle.manifest)
        self._inputs = [make_input(image, self._manifest.model.input)[0] for image in images]
        self._score = score
        self._max_drop = max_drop
        self._progress = progress
        self._rows: list[TuningRow] = []

    def run(self) -> Manifest:
        """The manifest with what was found."""
        artefact = self._manifest.artefact
        choices = load_engine(artefact.engine).tuning_choices(self._folder, artefact)
        if not choices:
            raise UsageError(
                f"there is nothing to tune for engine {artefact.engine}", hint="It chooses its kernels when it builds"
            )
        default = Setup(artefact.options, self._manifest.threads)
        with self._open(default) as session:
            self._reference = self._maps(session)
            default_ap = self._score(session) if self._score else None
        steps = self._search(default, choices)
        tuned_ap = default_ap
        if default_ap is not None:
            steps, tuned_ap = self._hold_budget(steps, default_ap)
        chosen, verdict = self._confirm(default, steps[-1].setup)
        if chosen is default:
            tuned_ap = default_ap
            self._take_back(steps)
        return self._record(chosen, verdict, default_ap, tuned_ap)

    def _search(self, default: Setup, choices: Sequence[Choice]) -> list[Step]:
        """Try every choice on the best so far; the steps of the way, the default first."""
        steps = [Step(default, -1)]
        with contextlib.ExitStack() as holding:
            best = holding.enter_context(self._open(default))
            for number, choice in enumerate(choices):
                setup = choice.change(steps[-1].setup)
                self._progress.step(_STAGE, number, len(choices), choice.text)
                if setup == steps[-1].setup:
                    continue
                with contextlib.ExitStack() as trying:
                    session = trying.enter_context(self._open(setup))
                    if not self._try(choice, best, session, races=len(choices)):
                        continue
                    holding.close()
                    holding.push(trying.pop_all())  # it stays open
                best = session
                steps.append(Step(setup, len(self._rows) - 1))
        self._progress.step(_STAGE, len(choices), len(choices))
        return steps

    def _try(self, choice: Choice, best: Session, session: Session, *, races: int) -> bool:
        """Race a session against the best so far and add the row; whether it is the best now."""
        difference = self._difference(session)
        verdict = race(self._runner(best), self._runner(session), races=races)
        same_numbers = difference <= MAX_DIFFERENCE or self._score is not None
        is_kept = verdict.is_faster and same_numbers and np.isfinite(difference)
        why = "" if is_kept or not verdict.is_faster else "other numbers than the bundle as deployed; give data"
        self._rows.append(
            TuningRow(
                change=choice.text,
                ratio=round(verdict.ratio, 4),
                ratio_low=round(verdict.low, 4),
                ratio_high=round(verdict.high, 4),
                rounds=verdict.rounds,
                map_difference=round(difference, 5),
                kept=bool(is_kept),
                why=why,
            )
        )
        return bool(is_kept)

    def _hold_budget(self, steps: list[Step], default_ap: float) -> tuple[list[Step], float]:
        """Take steps back, the latest first, until AP is within the budget; the steps left and their AP."""
        while len(steps) > 1:
            with self._open(steps[-1].setup) as session:
                ap = self._measure(session)
            if default_ap - ap <= self._max_drop:
                return steps, ap
            row = steps.pop().row
            why = f"taken back: {default_ap - ap:.2f} AP, more than the {self._max_drop} allowed"
            self._rows[row] = msgspec.structs.replace(self._rows[row], kept=False, why=why)
        return steps, default_ap

    def _take_back(self, steps: list[Step]) -> None:
        """Say of every step that was still kept that the last race did not bear it out."""
        for step in steps[1:]:
            why = "taken back: all together not faster than as deployed, in the last race"
            self._rows[step.row] = msgspec.structs.replace(self._rows[step.row], kept=False, why=why)

    def _confirm(self, default: Setup, chosen: Setup) -> tuple[Setup, Verdict]:
        """Time what was chosen against the default; the default where it does not win.

        The rounds that decide are not those that are recorded: a race that was won is more often a lucky one.
        """
        with self._open(default) as before, self._open(chosen) as after:
            runs = self._runner(before), self._runner(after)
            if chosen != default and measure(*runs).is_faster:
                return chosen, measure(*runs)
            verdict = measure(*runs)
        same = replace(verdict, ratio=1.0, low=1.0, high=1.0, challenger_ms=verdict.holder_ms, is_faster=False)
        return default, same

    def _record(self, chosen: Setup, verdict: Verdict, default_ap: float | None, tuned_ap: float | None) -> Manifest:
        manifest = self._manifest
        is_changed = chosen != Setup(manifest.artefact.options, manifest.threads)
        scores, own_scores = split_scores(manifest) if is_changed else (manifest.scores, ())
        tuning = Tuning(
            device=processor_name(),
            engine_version=importlib.metadata.version(load_engine(manifest.artefact.engine).cpu_package),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            rows=tuple(self._rows),
            default_options=manifest.artefact.options,
            default_threads=manifest.threads,
            default_scores=own_scores,
            default_latency=manifest.latency if is_changed else (),
            default_ms=round(verdict.holder_ms, 3),
            tuned_ms=round(verdict.challenger_ms, 3),
            ratio=round(verdict.ratio, 4),
            ratio_low=round(verdict.low, 4),
            ratio_high=round(verdict.high, 4),
            default_ap=default_ap,
            tuned_ap=tuned_ap,
        )
        artefact = msgspec.structs.replace(manifest.artefact, options=chosen.options, float_layers=chosen.float_layers)
        return msgspec.structs.replace(
            manifest,
            artefact=artefact,
            threads=chosen.threads,
            tuning=tuning,
            scores=scores,
            latency=() if is_changed else manifest.latency,
        )

    @contextlib.contextmanager
    def _open(self, setup: Setup) -> Iterator[Session]:
        session = open_artefact(
            self._folder,
            msgspec.structs.replace(self._manifest.artefact, options=setup.options, float_layers=setup.float_layers),
            self._manifest.model,
            threads=setup.threads,
        )
        try:
            yield session
        finally:
            session.close()

    def _maps(self, session: Session) -> list[list[Float32]]:
        return [session.run(batch) for batch in self._inputs]

    def _difference(self, session: Session) -> float:
        """Largest rms / std over the maps, against the bundle as deployed."""
        pairs = zip(zip(*self._reference, strict=True), zip(*self._maps(session), strict=True), strict=True)
        found = []
        for wanted, given in pairs:
            reference = np.stack(wanted).astype(np.float64)
            found.append(float(np.sqrt(np.mean((np.stack(given) - reference) ** 2)) / max(reference.std(), 1e-12)))
        return max(found)

    def _runner(self, session: Session) -> Callable[[], object]:
        images = np.repeat(self._inputs[0], self._manifest.model.input.batch[1], axis=0)
        return lambda: session.run(images)

    def _measure(self, session: Session) -> float:
        if self._score is None:
            raise BackendError("no data to measure with")
        return self._score(session)
