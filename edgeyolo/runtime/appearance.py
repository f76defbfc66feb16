"""What objects look like, as vectors, by a small network that is deployed as a bundle."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

import numpy as np

from edgeyolo.geometry.network_input import InputWriter, bgr_from_any, make_batch
from edgeyolo.runtime.processor import open_session
from edgeyolo.spec.detections import Image
from edgeyolo.spec.tracks import Float64


class Appearance:
    """Gives a vector for each box of a picture; what `Tracker` takes as `embed`. A context manager.

    A box is cut out and letterboxed as the bundle says. The vector is the mean of every channel of the network's raw
    maps: of a network made for the purpose, whose one map is 1 x 1, its output; of a detector, how much of what it
    looks for is there.

    Args:
        path: a `.eyb` archive, or a folder with the same files.
        threads: engine threads, 0 for the number in the bundle.

    Raises:
        BundleError: broken, altered, unsafe or too new. MissingPackageError, EngineCrashError, BackendError: it cannot
        be run on this computer.
    """

    def __init__(self, path: Path | str, *, threads: int = 0) -> None:
        from edgeyolo.bundle import for_this_device, open_bundle

        with contextlib.ExitStack() as opening:
            bundle = opening.enter_context(open_bundle(Path(path)))
            manifest = for_this_device(bundle.manifest)
            self._session = open_session(bundle.folder, manifest, threads=threads)
            opening.callback(self._session.close)
            self._closing = opening.pop_all()
        self._input = manifest.model.input
        self._writer = InputWriter(self._input)

    def __call__(self, frame: Image, boxes_xyxy: Float64) -> Float64:
        """(M, 4) in pixels of the frame, M >= 1 -> (M, D).

        Raises:
            ImageError: not a picture. BackendError: the network fails.
        """
        frame = bgr_from_any(frame)
        batch, _ = make_batch([_cut_out(frame, box) for box in boxes_xyxy], self._input, writer=self._writer)
        maps = self._session.run(batch)
        return np.concatenate([level.mean(axis=(2, 3), dtype=np.float64) for level in maps], axis=1)

    def close(self) -> None:
        """Give back the engine and the bundle's files; closing twice is harmless."""
        self._closing.close()

    def __enter__(self) -> Appearance:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cut_out(frame: Image, box_xyxy: Float64) -> Image:
    """The part of the frame that a box covers, one pixel at least."""
    height, width = frame.shape[:2]
    left, top = (int(min(max(np.floor(v), 0), size - 1)) for v, size in zip(box_xyxy[:2], (width, height), strict=True))
    right, bottom = (int(min(np.ceil(v), size)) for v, size in zip(box_xyxy[2:], (width, height), strict=True))
    return frame[top : max(bottom, top + 1), left : max(right, left + 1)]
