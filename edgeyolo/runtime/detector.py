"""Picture in, boxes out: letterbox, network, decode, NMS, and back to the pixels of the picture."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeyolo.geometry.network_input import InputWriter, empty_input, make_batch
from edgeyolo.geometry.nms import suppress
from edgeyolo.heads import box_head_of
from edgeyolo.runtime.clock import Timing
from edgeyolo.spec.detecting import Nms, Thresholds
from edgeyolo.spec.detections import Detections, Float32, Image
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.transfer import ThresholdMap

if TYPE_CHECKING:
    from edgeyolo.backends import Session
    from edgeyolo.geometry.letterbox import Letterbox

# Only the best candidates of a picture go on to NMS, which bounds its time when the score threshold is near zero.
CANDIDATES_PER_DETECTION = 30
MIN_CANDIDATES = 4096
DEFAULT_THRESHOLDS = Thresholds()


class Detector:
    """A detector on any session; a context manager. Threads may share it: their calls are done one after the other.

    Args:
        session: runs the network; closed together with the detector.
        thresholds: which predictions are reported.
        manifest: of the bundle it came from, if it came from one.

    Attributes:
        spec: input, decode and classes.
        timing: of the latest call of any thread; zeros before the first.

    Raises:
        UsageError: a threshold out of its range.
    """

    def __init__(
        self,
        session: Session,
        spec: ModelSpec,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        *,
        manifest: Manifest | None = None,
    ) -> None:
        check_settings(thresholds)
        self.spec = spec
        self.manifest = manifest
        self.timing = Timing(0.0, 0.0, 0.0)
        self._least_scores = least_scores(thresholds, spec.class_names, manifest)
        self._thresholds = msgspec.structs.replace(thresholds, score_threshold=float(self._least_scores.min()))
        self._session = session
        self._head = box_head_of(spec.decode)
        self._map_shapes = self._head.map_shapes(len(spec.class_names), spec.input.image_hw)
        self._memory = empty_input(spec.input, 1)
        self._writer = InputWriter(spec.input)
        self._closing = contextlib.ExitStack()
        self._closing.callback(session.close)
        self._closed = False
        self._lock = threading.Lock()  # of the memory that calls reuse

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        threads: int = 0,
        score_threshold: float | None = DEFAULT_THRESHOLDS.score_threshold,
        transfer: bool = DEFAULT_THRESHOLDS.transfer,
        iou_threshold: float = DEFAULT_THRESHOLDS.iou_threshold,
        max_detections: int = DEFAULT_THRESHOLDS.max_detections,
        nms: Nms | None = DEFAULT_THRESHOLDS.nms,
        multi_label: bool = DEFAULT_THRESHOLDS.multi_label,
        progress: Progress = SILENT,
    ) -> Detector:
        """Open a bundle: a `.eyb` archive, or a folder with the same files. The engine is found from its manifest.

        Args:
            threads: engine threads; 0 for at most the number in the manifest, and fewer while other work takes cores.
            score_threshold, transfer, iou_threshold, max_detections, nms, multi_label: see `Thresholds`.
            progress: hears of an engine that builds on this machine when a bundle is first loaded.

        Raises:
            BundleError: broken, altered, unsafe or too new. MissingPackageError: its engine is not installed.
            EngineCrashError: its engine dies on this computer. BackendError: the engine cannot open the artefact, or
            the processor lacks what it needs. UsageError: an argument out of its range.
        """
        from edgeyolo.bundle import for_this_device, open_bundle
        from edgeyolo.runtime.processor import open_session
        from edgeyolo.runtime.thread_choice import follow_machine

        if threads < 0:
            raise UsageError(f"threads is {threads}", hint="Give 0 for the number in the bundle, or more")
        with contextlib.ExitStack() as opening:
            bundle = opening.enter_context(open_bundle(Path(path)))
            manifest = for_this_device(bundle.manifest)
            opener = functools.partial(open_session, bundle.folder, manifest, threads=threads, progress=progress)
            session = opener() if threads else follow_machine(opener)
            opening.callback(session.close)
            thresholds = Thresholds(
                score_threshold=score_threshold,
                transfer=transfer,
                iou_threshold=iou_threshold,
                max_detections=max_detections,
                nms=nms or manifest.nms,
                multi_label=multi_label,
            )
            detector = cls(session, manifest.model, thresholds, manifest=manifest)
            detector._closing = opening.pop_all()
        return detector

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names; `Detections.class_ids` are positions in it."""
        return self.spec.class_names

    @property
    def batch(self) -> int:
        """How many pictures the engine takes at once, at most; `detect_batch` takes any number."""
        return self.spec.input.batch[1]

    @property
    def threads(self) -> int:
        """Threads that the engine computes with now; 0 where it has none to choose."""
        return int(getattr(self._session, "threads", 0))

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
        """Find the objects of several pictures, of any sizes; as `detect` otherwise.

        The engine is called once for each `batch` of them, and fills up what is missing of a fixed number. What
        `deploy` writes without `--batch` takes one picture at a time.
        """
        with self._lock:
            return self._detect_batch(images) if images else []

    def _detect_batch(self, images: Sequence[Image]) -> list[Detections]:
        if self._closed:
            raise BackendError("the detector is closed", hint="Load it again")
        if len(self._memory) < len(images):
            self._memory = empty_input(self.spec.input, len(images))
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
        """Give back the engine and the bundle's files; closing twice is harmless."""
        with self._lock:
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
        boxes_xyxy, scores, class_ids = self._head.decode(
            [level[i] for level in maps],
            score_threshold=self._thresholds.least_score,
            multi_label=self._thresholds.multi_label,
        )
        high = scores >= self._least_scores[class_ids]
        boxes_xyxy, scores, class_ids = boxes_xyxy[high], scores[high], class_ids[high]
        limit = max(MIN_CANDIDATES, CANDIDATES_PER_DETECTION * self._thresholds.max_detections)
        if len(scores) > limit:
            best = np.argpartition(scores, -limit)[-limit:]
            boxes_xyxy, scores, class_ids = boxes_xyxy[best], scores[best], class_ids[best]
        kept, scores = suppress(boxes_xyxy, scores, class_ids, self._thresholds)
        boxes_xyxy = letterbox.invert(boxes_xyxy[kept])
        class_ids = class_ids[kept]
        inside = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1)  # a box in the padding has no area left
        inside &= scores >= self._least_scores[class_ids]  # of which matrix NMS has let some fall
        return Detections(np.asarray(boxes_xyxy[inside], np.float32), scores[inside], class_ids[inside])

    def _check_maps(self, maps: Sequence[Float32], count: int) -> None:
        found = [level.shape for level in maps]
        expected = [(count, *shape) for shape in self._map_shapes]
        if found != expected:
            raise BackendError(
                f"the network gave maps of shapes {found}; {self.spec.name} should give {expected}",
                hint="The artefact and the manifest do not belong together: build the bundle again",
            )


def least_scores(thresholds: Thresholds, class_names: Sequence[str], manifest: Manifest | None) -> Float32:
    """(K,) float32: the score from which on an object of each class is reported."""
    wanted = thresholds.least_score
    if manifest is None:
        return np.full(len(class_names), wanted, np.float32)
    if thresholds.score_threshold is None:
        wanted = manifest.score_threshold
    known = manifest.transfer.maps if manifest.transfer and thresholds.transfer else {}
    return np.array([known.get(name, ThresholdMap()).of(wanted) for name in class_names], np.float32)
