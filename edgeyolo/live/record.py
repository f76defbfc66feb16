"""Pictures that are worth a label: one when a class appears, with what was found in it, within limits of time and disk.

A recording is a JPEG and a JSON of the same name. The JSON comes first and the JPEG is renamed into place last, so that
a picture that is there is whole and has its JSON. A thread of its own writes; while it does, further pictures are left
out and counted.
"""

from __future__ import annotations

import datetime
import logging
import queue
import threading
import time
from collections import deque
from pathlib import Path

import cv2
import msgspec

from edgeyolo.live.discovery import plain_name
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.detections import Detections, Image
from edgeyolo.spec.errors import OutputError
from edgeyolo.spec.serving import RecordOptions
from edgeyolo.spec.strict import encode_json

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_QUALITY = 95
_WAITING = 2  # pictures on their way to the disk


class RecordedObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One detection; the box in pixels of the picture."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    class_name: str


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON beside a picture.

    Attributes:
        source: that it is of.
        time: in UTC.
        appeared: classes for which it was kept.
        class_names: all that the model knows, in its order.
        model: that found the objects.
    """

    format_version: int = FORMAT_VERSION
    source: str
    time: str
    image_hw: tuple[int, int]
    appeared: tuple[str, ...]
    class_names: tuple[str, ...]
    model: str
    objects: tuple[RecordedObject, ...]


class Recorder:
    """Keeps pictures in a folder; a context manager.

    Attributes:
        kept: pictures written.
        left_out: pictures that were not, for want of time or room.
        removed: old pictures that made room.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, options: RecordOptions, class_names: tuple[str, ...], classes: tuple[str, ...], model: str
    ) -> None:
        self.kept = self.left_out = self.removed = 0
        self._folder, self._options, self._model = folder, options, model
        self._class_names, self._classes = class_names, frozenset(classes)
        self._latest_s: dict[str, float] = {}
        self._jobs: queue.Queue[tuple[Image, Recording] | None] = queue.Queue(_WAITING)
        self._is_full = self._has_failed = False
        _check_writable(folder)
        self._sizes = deque(_list_sizes(folder))
        self._bytes = sum(size for _, size in self._sizes)
        self._thread = threading.Thread(target=self._write_all, name="edgeyolo-record", daemon=True)
        self._thread.start()

    def offer(self, source: str, image: Image, detections: Detections, appeared: set[str]) -> None:
        """A result with the classes that appear in it; never waits."""
        wanted = appeared & self._classes
        now_s = time.monotonic()
        if not wanted or now_s - self._latest_s.get(source, float("-inf")) < self._options.record_every:
            return
        found = zip(
            detections.boxes_xyxy.tolist(), detections.scores.tolist(), detections.class_ids.tolist(), strict=True
        )
        objects = [
            RecordedObject(box_xyxy=tuple(box), score=round(score, 4), class_name=self._class_names[i])
            for box, score, i in found
        ]
        recording = Recording(
            source=source,
            time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
            image_hw=(image.shape[0], image.shape[1]),
            appeared=tuple(sorted(wanted)),
            class_names=self._class_names,
            model=self._model,
            objects=tuple(objects),
        )
        try:
            self._jobs.put_nowait((image, recording))
            self._latest_s[source] = now_s
        except queue.Full:
            self.left_out += 1

    def status(self) -> dict[str, int]:
        """Counts so far."""
        mib = round(self._bytes / 2**20)
        return {"kept": self.kept, "left_out": self.left_out, "removed": self.removed, "mib": mib}

    def close(self) -> None:
        """Write what is on its way, and end."""
        self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *outcome: object) -> None:
        self.close()

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._write(*job):
                    self.kept, self._has_failed = self.kept + 1, False
                else:
                    self.left_out += 1
            except OutputError as error:
                self.left_out += 1
                if not self._has_failed:
                    logger.error("not recorded: %s", error)
                self._has_failed = True

    def _write(self, image: Image, recording: Recording) -> bool:
        """Both files; False where there is no room for them."""
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
        sidecar = encode_json(recording)
        if not self._make_room(len(jpeg) + len(sidecar)):
            return False
        stamp = recording.time.partition("+")[0].replace(":", "").replace("-", "").replace(".", "-")
        picture = self._folder / f"{stamp}-{plain_name(recording.source)}.jpg"
        write_file(picture.with_suffix(".json"), sidecar)
        write_file(picture, jpeg)
        self._sizes.append((picture, len(jpeg) + len(sidecar)))
        self._bytes += len(jpeg) + len(sidecar)
        return True

    def _make_room(self, size: int) -> bool:
        most = int(self._options.record_limit_mib * 2**20)
        while self._bytes + size > most and self._options.record_full == "oldest" and self._sizes:
            picture, freed = self._sizes.popleft()
            picture.unlink(missing_ok=True)
            picture.with_suffix(".json").unlink(missing_ok=True)
            self._bytes -= freed
            self.removed += 1
        if self._bytes + size <= most:
            return True
        if not self._is_full:
            logger.warning("%s: is full (%g MiB); recording has stopped", self._folder, self._options.record_limit_mib)
        self._is_full = True
        return False


def list_recordings(folder: Path) -> list[Path]:
    """Pictures of a folder that have their JSON, oldest first."""
    return sorted(path for path in folder.glob("*.jpg") if path.with_suffix(".json").is_file())


def _list_sizes(folder: Path) -> list[tuple[Path, int]]:
    """Pictures of earlier runs, oldest first, with the bytes of both files."""
    pictures = list_recordings(folder)
    return [(path, path.stat().st_size + path.with_suffix(".json").stat().st_size) for path in pictures]


def _check_writable(folder: Path) -> None:
    probe = folder / ".edgeyolo"
    write_file(probe, b"")
    probe.unlink()
