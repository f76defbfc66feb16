"""What tuning on one device means on others: nothing, until the bundle is tuned there."""

from __future__ import annotations

import logging

import msgspec

from edgeyolo.spec.machine import processor_name
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.model import Score

logger = logging.getLogger(__name__)


def for_this_device(manifest: Manifest) -> Manifest:
    """The manifest that this computer runs by: as deployed, and said so, where it was tuned on another device."""
    tuning = manifest.tuning
    if tuning is None or not is_changed(manifest) or tuning.device == processor_name():
        return manifest
    logger.warning(
        "this bundle was tuned on %s, and this is %s: it runs as it was deployed (edgeyolo bench --tune)",
        tuning.device,
        processor_name(),
    )
    return as_deployed(manifest)


def is_changed(manifest: Manifest) -> bool:
    """Whether tuning found something that is faster."""
    tuning, artefact = manifest.tuning, manifest.artefact
    if tuning is None:
        return False
    before = (tuning.default_options, tuning.default_threads, ())
    return before != (artefact.options, manifest.threads, artefact.float_layers)


def as_deployed(manifest: Manifest) -> Manifest:
    """`manifest` as it was before tuning."""
    tuning = manifest.tuning
    if tuning is None:
        return manifest
    before = msgspec.structs.replace(manifest, tuning=None)
    if not is_changed(manifest):
        return before
    artefact = msgspec.structs.replace(manifest.artefact, options=tuning.default_options, float_layers=())
    return msgspec.structs.replace(
        before,
        artefact=artefact,
        threads=tuning.default_threads,
        scores=(*split_scores(manifest)[0], *tuning.default_scores),
        latency=tuning.default_latency,
    )


def split_scores(manifest: Manifest) -> tuple[tuple[Score, ...], tuple[Score, ...]]:
    """Scores of the models that the artefact was made from, and those of the artefact itself."""
    own = f"{manifest.artefact.engine} {manifest.artefact.precision}"
    mine = [score.artefact.startswith(own) for score in manifest.scores]
    of_sources = tuple(score for score, is_mine in zip(manifest.scores, mine, strict=True) if not is_mine)
    return of_sources, tuple(score for score, is_mine in zip(manifest.scores, mine, strict=True) if is_mine)
