"""Picture and boxes of persons in, joints out: cut out, network, decode, and back to the pixels of the picture."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edgeyolo.geometry.crop import Crop, crop_around
from edgeyolo.geometry.network_input import InputWriter, bgr_from_any, empty_input
from edgeyolo.heads import joint_head_of
from edgeyolo.runtime.clock import Timing
from edgeyolo.spec.detections import Detections, Float32, Image
from edgeyolo.spec.errors import BackendError, UsageError
from edgeyolo.spec.joints import mirrored_joints
from edgeyolo.spec.manifest import Manifest
from edgeyolo.spec.model import HeatmapDecode, ModelSpec
from edgeyolo.spec.poses import Poses
from edgeyolo.spec.progress import SILENT, Progress

if TYPE_CHECKING:
    from edgeyolo.backends import Session

PERSON = "person"


class PoseEstimator:
    """Finds joints on any session; a context manager. Threads may share it: their calls are done one after the other.

    Args:
        session: runs the network; closed together with the estimator.
        flip_test: look at the mirror image of each person too, and take the mean: better joints for twice the time.
        manifest: of the bundle it came from, if it came from one.

    Attributes:
        spec: input, decode and joints.
        timing: of the latest call of any thread; zeros before the first.

    Raises:
        UsageError: the network finds boxes.
    """

    def __init__(
        self, session: Session, spec: ModelSpec, *, flip_test: bool = False, manifest: Manifest | None = None
    ) -> None:
        self._head = joint_head_of(spec.decode)
        self.spec = spec
        self.manifest = manifest
        self.timing = Timing(0.0, 0.0, 0.0)
        self._session = session
        self._flip_test = flip_test
        self._mirrored = mirrored_joints(spec.class_names)
        self._map_shape = self._head.map_shapes(len(spec.class_names), spec.input.image_hw)[0]
        self._writer = InputWriter(spec.input)
        self._closing = contextlib.ExitStack()
        self._closing.callback(session.close)
        self._closed = False
        self._lock = threading.Lock()  # of the memory that calls reuse

    @classmethod
    def load(
        cls, path: Path | str, *, threads: int = 0, flip_test: bool = False, progress: Progress = SILENT
    ) -> PoseEstimator:
        """Open a bundle: a `.eyb` archive, or a folder with the same files. The engine is found from its manifest.

        Args:
            threads: engine threads; 0 for at most the number in the manifest, and fewer while other work takes cores.
            flip_test: see `PoseEstimator`.
            progress: hears of an engine that builds on this machine when a bundle is first loaded.

        Raises:
            BundleError: broken, altered, unsafe or too new. MissingPackageError: its engine is not installed.
            EngineCrashError: its engine dies on this computer. BackendError: the engine cannot open the artefact, or
            the processor lacks what it needs. UsageError: it is a detector, or an argument is out of its range.
        """
        from edgeyolo.bundle import for_this_device, open_bundle
        from edgeyolo.runtime.processor import open_session
        from edgeyolo.runtime.thread_choice import follow_machine

        if threads < 0:
            raise UsageError(f"threads is {threads}", hint="Give 0 for the number in the bundle, or more")
        with contextlib.ExitStack() as opening:
            bundle = opening.enter_context(open_bundle(Path(path)))
            manifest = for_this_device(bundle.manifest)
            joint_head_of(manifest.model.decode)
            opener = functools.partial(open_session, bundle.folder, manifest, threads=threads, progress=progress)
            session = opener() if threads else follow_machine(opener)
            opening.callback(session.close)
            estimator = cls(session, manifest.model, flip_test=flip_test, manifest=manifest)
            estimator._closing = opening.pop_all()
        return estimator

    @property
    def joint_names(self) -> tuple[str, ...]:
        """K names, in the order of `Poses.keypoints`."""
        return self.spec.class_names

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """Pairs of joints with a line between them, for `draw_poses`."""
        return self.spec.decode.skeleton if isinstance(self.spec.decode, HeatmapDecode) else ()

    def estimate(self, image: Image, boxes_xyxy: Float32 | Detections) -> Poses:
        """Find the joints of the persons of one picture.

        Args:
            image: (H, W, 3) uint8 BGR, as cv2.imread gives; grey and BGRA are converted (see `bgr_from_any`).
            boxes_xyxy: (N, 4) pixels of `image`, or what a detector has found; every box is taken for a person.

        Raises:
            ImageError: not a picture. BackendError: the network fails, or gives other maps than the model should.
            UsageError: boxes that are none.
        """
        found = boxes_xyxy.boxes_xyxy if isinstance(boxes_xyxy, Detections) else boxes_xyxy
        boxes = np.asarray(found, np.float32)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise UsageError(f"boxes of shape {boxes.shape}, or not finite", hint="Give (N, 4): left top right bottom")
        image, size = bgr_from_any(image), self.spec.input.image_hw
        crops = [crop_around(box, size, margin=self._head.margin) for box in boxes]
        with self._lock:
            return self._estimate([crop.cut(image) for crop in crops], crops)

    def _estimate(self, cuts: Sequence[Image], crops: Sequence[Crop]) -> Poses:
        if self._closed:
            raise BackendError("the estimator is closed", hint="Load it again")
        if not cuts:
            return Poses(np.zeros((0, len(self.joint_names), 3), np.float32))
        started = time.perf_counter()
        turned = [np.ascontiguousarray(cut[:, ::-1]) for cut in cuts] if self._flip_test else []
        batch = empty_input(self.spec.input, len(cuts) + len(turned))
        for cut, place in zip((*cuts, *turned), batch, strict=True):
            self._writer.write(cut, place)
        prepared = time.perf_counter()
        maps = self._session.run(batch)[0]
        answered = time.perf_counter()
        if maps.shape != (len(batch), *self._map_shape):
            raise BackendError(
                f"the network gave maps of shape {maps.shape[1:]}; {self.spec.name} should give {self._map_shape}",
                hint="The artefact and the manifest do not belong together: build the bundle again",
            )
        heat = maps[: len(cuts)]
        if turned:
            heat = (heat + self._turned_back(maps[len(cuts) :])) * np.float32(0.5)
        found = self._head.decode_joints(heat)
        for joints, crop in zip(found, crops, strict=True):
            joints[:, :2] = crop.invert(joints[:, :2])
        finished = time.perf_counter()
        self.timing = Timing((prepared - started) * 1e3, (answered - prepared) * 1e3, (finished - answered) * 1e3)
        return Poses(found)

    def _turned_back(self, maps: Float32) -> Float32:
        """Maps of mirror images as if of the pictures: each joint is its other side's there.

        They are moved a cell to the right, for cells stand for pixels that are counted from the left.
        """
        back = maps[:, self._mirrored, :, ::-1].copy()
        back[..., 1:] = back[..., :-1].copy()
        return back

    def close(self) -> None:
        """Give back the engine and the bundle's files; closing twice is harmless."""
        with self._lock:
            self._closed = True
            self._closing.close()

    def __enter__(self) -> PoseEstimator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def persons_among(detections: Detections, class_names: Sequence[str]) -> Detections:
    """The objects of the class "person"; all, where the detector has no such class."""
    if PERSON not in class_names:
        return detections
    rows = np.flatnonzero(detections.class_ids == list(class_names).index(PERSON))
    return Detections(detections.boxes_xyxy[rows], detections.scores[rows], detections.class_ids[rows])
