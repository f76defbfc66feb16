"""GStreamer pipelines as sources: what people have, a Jetson's CSI cameras, and its hardware decoder.

OpenCV runs them where it was built with GStreamer, as JetPack's own is; OpenCV from a package index never is, and then
`gst-launch-1.0` runs them in a process of its own and hands the frames over in a pipe.
Source: gstreamer.freedesktop.org; Jetson Linux Developer Guide, "Accelerated GStreamer".
"""

from __future__ import annotations

import logging
import os
import re
import select
import shlex
import shutil
import subprocess
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import cv2
import numpy as np

from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import MissingPackageError, UsageError

logger = logging.getLogger(__name__)

WRITTEN, CAMERA, HARDWARE = "gst:", "csi://", "nv:"
FRAME_TIMEOUT_S = 10.0

_INSTALL = "sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
_TO_MEMORY = "nvvidconv ! video/x-raw,format=BGRx"  # out of the memory that only the decoder and the GPU see
_OF_FILES = re.compile(r"\s*(filesrc|multifilesrc|videotestsrc)\b")
_CAPS = re.compile(r"GstFdSink:frames\.GstPad:sink: caps = (.*)")
_STRIDE = 4  # GStreamer's rows begin at multiples of so many bytes


@dataclass(frozen=True)
class Pipeline:
    """A pipeline up to its frames.

    Attributes:
        elements: as gst-launch takes them, without the sink.
        is_live: whether frames come whether they are read or not.
    """

    elements: str
    is_live: bool

    @property
    def shown(self) -> str:
        """Names of its elements only: their properties may hold passwords."""
        return "gst: " + " ! ".join(part.split()[0] for part in self.elements.split("!") if part.split())


def parse_pipeline(text: str) -> Pipeline | None:
    """The pipeline that a source names; None for a source of another kind.

    Args:
        text: "gst: ELEMENTS ! appsink"; "csi://0?width=1920&height=1080&fps=30", a camera on a Jetson's CSI; or
            "nv:rtsp://..." and "nv:FILE", decoded by a Jetson's hardware.

    Raises:
        UsageError: a pipeline that does not end in an appsink, or a camera's setting that is not known.
    """
    if text.startswith(WRITTEN):
        elements, bar, sink = text.removeprefix(WRITTEN).rpartition("!")
        if not bar or sink.split()[:1] != ["appsink"]:
            raise UsageError("does not end in an appsink", where="gst: ...", hint="Write it as: gst: v4l2src ! appsink")
        return Pipeline(elements.strip(), not _OF_FILES.match(elements))
    if text.startswith(CAMERA):
        return Pipeline(_camera(text), is_live=True)
    if text.startswith(f"{HARDWARE}rtsp"):
        address = shlex.quote(text.removeprefix(HARDWARE))
        received = f"rtspsrc location={address} latency=200 ! application/x-rtp,media=video"
        return Pipeline(f"{received} ! decodebin ! {_TO_MEMORY}", is_live=True)
    if text.startswith(HARDWARE):
        path = shlex.quote(text.removeprefix(HARDWARE))
        return Pipeline(f"filesrc location={path} ! decodebin ! {_TO_MEMORY}", is_live=False)
    return None


def _camera(text: str) -> str:
    parts = urlsplit(text)
    settings = {"width": "1280", "height": "720", "fps": "30"}
    given = dict(parse_qsl(parts.query))
    wrong = [name for name in given if name not in settings or not given[name].isdecimal()]
    if wrong or not parts.netloc.isdecimal():
        raise UsageError(
            f"{wrong[0] if wrong else parts.netloc!r} is no setting of a CSI camera",
            where=text,
            hint="Write it as csi://0?width=1280&height=720&fps=30",
        )
    width, height, fps = (settings | given).values()
    size = f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1"
    return f"nvarguscamerasrc sensor-id={parts.netloc} ! {size} ! {_TO_MEMORY}"


def connect_pipeline(pipeline: Pipeline) -> Any:
    """Start it: what OpenCV gives where it knows GStreamer, otherwise a `LaunchedPipeline`.

    Raises:
        MissingPackageError: there is no GStreamer.
    """
    if opencv_has_gstreamer():
        text = f"{pipeline.elements} ! videoconvert ! video/x-raw,format=BGR ! appsink"
        return cv2.VideoCapture(f"{text} drop=true max-buffers=2" if pipeline.is_live else text, cv2.CAP_GSTREAMER)
    program = shutil.which("gst-launch-1.0")
    if program is None:
        raise MissingPackageError("gst-launch-1.0", needed_for="a GStreamer pipeline", install=_INSTALL)
    return LaunchedPipeline(program, pipeline)


def opencv_has_gstreamer() -> bool:
    """Whether this OpenCV was built with it; its list of backends names plugins that are not there too."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


class LaunchedPipeline:
    """A pipeline that `gst-launch-1.0` runs; reads like a `cv2.VideoCapture`. What GStreamer complains of is logged."""

    def __init__(self, program: str, pipeline: Pipeline) -> None:
        self._shown = pipeline.shown
        self._fps, self._shape = 0.0, (0, 0)
        self._has_shape = threading.Event()
        self._frames, writing = os.pipe()
        sink = ["!", "videoconvert", "!", "video/x-raw,format=BGR", "!"]
        sink += ["fdsink", "name=frames", f"fd={writing}", "sync=false"]
        command = [program, "-v", *shlex.split(pipeline.elements), *sink]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            text=True,
            errors="replace",
        )
        os.close(writing)
        self._listener = threading.Thread(target=self._listen, daemon=True, name="gst-launch's words")
        self._listener.start()

    def read(self) -> tuple[bool, Image | None]:
        """Whether there was a frame, and the frame, (H, W, 3) uint8 BGR."""
        if not self._has_shape.wait(FRAME_TIMEOUT_S) or not self._shape[0]:
            return False, None
        height, width = self._shape
        row = -(-3 * width // _STRIDE) * _STRIDE
        raw = self._read_exactly(height * row)
        if raw is None:
            return False, None
        return True, np.ascontiguousarray(raw.reshape(height, row)[:, : 3 * width].reshape(height, width, 3))

    def get(self, propId: int) -> float:
        """Frames per second, 0 where the pipeline does not say; 0 for anything else."""
        return self._fps if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        """End the pipeline; twice is harmless."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._frames >= 0:
            os.close(self._frames)
            self._frames = -1

    def _read_exactly(self, size: int) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        """So many bytes; None at the end, or where nothing comes for too long."""
        raw = bytearray(size)
        rest = memoryview(raw)
        while rest:
            ready, _, _ = select.select([self._frames], [], [], FRAME_TIMEOUT_S)
            count = os.readv(self._frames, [rest]) if ready else 0
            if count == 0:
                return None
            rest = rest[count:]
        return np.frombuffer(raw, np.uint8)

    def _listen(self) -> None:
        """Read what gst-launch says until it ends: the caps of the frames, and errors."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if (caps := _CAPS.search(line)) and not self._has_shape.is_set():
                found = dict(re.findall(r"(\w+)=\(\w+\)([\w/]+)", caps[1]))
                self._shape = (int(found["height"]), int(found["width"]))
                over, _, under = found.get("framerate", "0/1").partition("/")
                self._fps = int(over) / int(under) if int(under or 0) else 0.0
                self._has_shape.set()
            elif line.startswith(("ERROR: from", "WARNING: erroneous")):
                logger.warning("%s: GStreamer says: %s", self._shown, line.strip())
        self._has_shape.set()  # it has ended, and nobody need wait
