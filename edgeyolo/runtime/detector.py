"""Picture in, boxes out: letterbox, network, decode, NMS, and back to the pixels of the picture."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edgeyolo.geometry.network_input import InputWriter, make_batch
from edgeyolo.geometry.nms import class_wise_nms
from edgeyolo.heads.decode import decode, map_shapes
from edgeyolo.runtime.clock import Timing
from edgeyolo.spec.detections import Detections, Float32, Image
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.model import ModelSpec

if TYPE_CHECKING:
    from edgeyolo.backends import Session
    from edgeyolo.geometry.letterbox import Letterbox

# Only the best candidates of a picture go on to NMS, which bounds its time when the score threshold is near zero.
CANDIDATES_PER_DETECTION = 30
MIN_CANDIDATES = 4096


class Detector:
    """A detector on any session; a context manager. One thread at a time: it reuses its input memory.

    Args:
        session: runs the network; closed together with the detector.
        score_threshold: in [0, 1]; objects with a lower score are not reported.
        iou_threshold: in [0, 1]; of two boxes of a class that overlap more, only the better one is kept.
        max_detections: at most so many objects per picture, the best ones, and out of 30 times as many candidates (or
            4096 if that is more).
        multi_label: let one prediction stand for several classes, as mAP is measured.
        manifest: of the bundle it came from, if it came from one.

    Attributes:
        spec: input, decode and classes.
        timing: of the latest call; zeros before the first.

    Raises:
        UsageError: a threshold out of its range.
    """

    def __init__(
        self,
        session: Session,
        spec: ModelSpec,
        *,
        score_threshold: float = 0.25,
        iou_threshold: float = 0.45,
        max_detections: int = 300,
        multi_label: bool = False,
        manifest: Manifest | None = None,
    ) -> None:
        for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"{name} is {value}", hint="Give a number from 0 to 1")
        if max_detections < 1:
            raise UsageError(f"max_detections is {max_detections}", hint="Give a whole number from 1 up")
        self.spec = spec
        self.manifest = manifest
        self.timing = Timing(0.0, 0.0, 0.0)
        self._score_threshold = score_threshold
        self._iou_threshold = iou_threshold
        self._max_detections = max_detections
        self._multi_label = multi_label
        self._session = session
        self._map_shapes = map_shapes(spec.decode, len(spec.class_names), spec.input.image_hw)
        self._memory = np.empty((1, 3, *spec.input.image_hw), np.float32)
        self._writer = InputWriter(spec.input)
        self._closing = contextlib.ExitStack()
        self._closing.callback(session.close)
        self._closed = False

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        threads: int = 0,
        score_threshold: float = 0.25,
        iou_threshold: float = 0.45,
        max_detections: int = 300,
        multi_label: bool = False,
    ) -> Detector:
        """Open a bundle: a `.eyb` archive, or a folder with the same files. The engine is found from its manifest.

        Args:
            threads: engine threads, 0 for the number in the manifest.

        Raises:
            BundleError: broken, altered, unsafe or too new. MissingPackageError: its engine is not installed.
            EngineCrashError: its engine dies on this computer. BackendError: the engine cannot open the artefact, or
            the processor lacks what it needs. UsageError: an argument out of its range.
        """
        from edgeyolo.backends import open_artefact
        from edgeyolo.bundle import open_bundle
        from edgeyolo.runtime.processor import check_engine, check_processor

        if threads < 0:
            raise UsageError(f"threads is {threads}", hint="Give 0 for the number in the bundle, or more")
        with contextlib.ExitStack() as opening:
            bundle = opening.enter_context(open_bundle(Path(path)))
            manifest = bundle.manifest
            check_processor(manifest)
            check_engine(bundle.folder, manifest)
            session = open_artefact(
                bundle.folder,
                manifest.artefact,
                output_count=manifest.model.output_count,
                image_hw=manifest.model.input.image_hw,
                threads=threads or manifest.threads,
            )
            opening.callback(session.close)
            detector = cls(
                session,
                manifest.model,
                score_threshold=score_threshold,
                iou_threshold=iou_threshold,
                max_detections=max_detections,
                multi_label=multi_label,
                manifest=manifest,
            )
            detector._closing = opening.pop_all()
        return detector

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names; `Detections.class_ids` are positions in it."""
        return self.spec.class_names

    def detect(self, image: Image) -> Detections:
        """Find the objects of one picture.

        Args:
            image: (H, W, 3) uint8 BGR, as cv2.imread gives; grey and BGRA are converted (see `bgr_from_any`).

        Returns:
            Boxes in pixels of `image`, clipped to it, best first.

        Raises:
            ImageError: not a picture. BackendError: the network fails, or gives other maps than the model should.
        """
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Sequence[Image]) -> list[Detections]:
        """Find the objects of several pictures, of any sizes, in one run of the network; as `detect` otherwise."""
        if self._closed:
            raise BackendError("the detector is closed", hint="Load it again")
        if not images:
            return []
        if len(self._memory) < len(images):
            self._memory = np.empty((len(images), *self._memory.shape[1:]), np.float32)
        started = time.perf_counter()
        batch, letterboxes = make_batch(images, self.spec.input, out=self._memory[: len(images)], writer=self._writer)
        prepared = time.perf_counter()
        maps = self._session.run(batch)
        answered = time.perf_counter()
        self._check_maps(maps, len(images))
        found = [self._read(maps, i, letterbox) for i, letterbox in enumerate(letterboxes)]
        finished = time.perf_counter()
        self.timing = Timing((prepared - started) * 1e3, (answered - prepared) * 1e3, (finished - answered) * 1e3)
        return found

    def close(self) -> None:
        """Give back the engine and the bundle's temporary files; closing twice is harmless."""
        self._closed = True
        self._closing.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, maps: Sequence[Float32], i: int, letterbox: Letterbox) -> Detections:
        """The objects of picture `i` of a batch."""
        boxes_xyxy, scores, class_ids = decode(
            [level[i] for level in maps],
            self.spec.decode,
            num_classes=len(self.spec.class_names),
            score_threshold=self._score_threshold,
            multi_label=self._multi_label,
        )
        limit = max(MIN_CANDIDATES, CANDIDATES_PER_DETECTION * self._max_detections)
        if len(scores) > limit:
            best = np.argpartition(scores, -limit)[-limit:]
            boxes_xyxy, scores, class_ids = boxes_xyxy[best], scores[best], class_ids[best]
        kept = class_wise_nms(
            boxes_xyxy, scores, class_ids, iou_threshold=self._iou_threshold, max_detections=self._max_detections
        )
        boxes_xyxy = letterbox.invert(boxes_xyxy[kept])
        inside = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1)  # a box in the padding has no area left
        kept = kept[inside]
        return Detections(np.asarray(boxes_xyxy[inside], np.float32), scores[kept], class_ids[kept])

    def _check_maps(self, maps: Sequence[Float32], count: int) -> None:
        found = [level.shape for level in maps]
        expected = [(count, *shape) for shape in self._map_shapes]
        if found != expected:
            raise BackendError(
                f"the network gave maps of shapes {found}; {self.spec.name} should give {expected}",
                hint="The artefact and the manifest do not belong together: build the bundle again",
            )
