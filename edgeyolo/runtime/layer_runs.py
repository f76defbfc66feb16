"""In which precision the layers of a bundle run here, as its engine says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeyolo.backends import load_engine
from edgeyolo.bundle import for_this_device, open_bundle
from edgeyolo.bundle.reader import read_manifest
from edgeyolo.geometry.network_input import make_batch
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.layers import LayerReport
from edgeyolo.spec.model import InputSpec

_RUNS = 20


def check_lists_layers(bundle: Path) -> None:
    """Raise UsageError for a bundle whose engine does not say how its layers run."""
    engine = load_engine(read_manifest(bundle).artefact.engine)
    if not engine.lists_layers:
        raise UsageError(f"{engine.name} does not say how its layers run", where=bundle, hint="Leave out --layers")


def list_layers(bundle: Path, picture: Image | None = None, *, threads: int = 0) -> LayerReport:
    """What the engine says of each layer.

    Args:
        picture: that it runs on, noise if not given.
        threads: of the engine, 0 for the bundle's number.

    Raises:
        UsageError: as `check_lists_layers`. BundleError, MissingPackageError, BackendError: it does not open here.
    """
    with open_bundle(bundle) as opened:
        manifest = for_this_device(opened.manifest)
        spec = manifest.model
        shown = noise(spec.input) if picture is None else picture
        images, _ = make_batch([shown] * spec.input.batch[1], spec.input)
        return load_engine(manifest.artefact.engine).list_layers(
            opened.folder, manifest.artefact, spec, images, runs=_RUNS, threads=threads or manifest.threads
        )


def noise(spec: InputSpec) -> Image:
    """A picture of noise, of the size that the network takes."""
    return np.random.default_rng(0).integers(0, 256, (*(spec.frame_hw or spec.image_hw), 3)).astype(np.uint8)
