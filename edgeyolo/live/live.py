"""A detector at work with everything that looks on.

Threads: one captures each source and one detects (`StreamsRun`); the caller's takes the results and hands them out; one
serves the clients; one encodes what they look at; one writes recordings; one ticks for the broker and systemd. The
caller's leaves each of the others the latest result and waits for none of them.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from edgeyolo.live.access import Access, find_token, read_secret
from edgeyolo.live.discovery import Topics, plain_name
from edgeyolo.live.metrics import Metrics
from edgeyolo.live.mqtt import Teller, parse_broker
from edgeyolo.live.notify import Notifier
from edgeyolo.live.pictures import Encoder, LivePicture
from edgeyolo.live.record import Recorder
from edgeyolo.live.routes import Routes
from edgeyolo.live.server import Limits
from edgeyolo.live.sources import make_endless_source
from edgeyolo.live.state import Health, SourceState
from edgeyolo.live.web import Web
from edgeyolo.runtime import Detector
from edgeyolo.runtime.follow import Followers
from edgeyolo.runtime.pipeline import StreamsRun
from edgeyolo.spec.detections import Detections
from edgeyolo.spec.errors import EdgeYoloError, OutputError, UnknownNameError, UsageError
from edgeyolo.spec.serving import RecordOptions, ServeOptions
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.tracking import TrackSettings
from edgeyolo.spec.zones import load_zones

_TICK_S = 0.25
_OTHER_CONNECTIONS = 64  # beside those of live pictures
DEFAULT_OPTIONS, DEFAULT_RECORDING, DEFAULT_TRACKING = ServeOptions(), RecordOptions(), TrackSettings()


class Live:
    """Serves what a detector sees; a context manager, whose `run` returns when `stop` is called.

    Args:
        sources: videos, addresses, cameras' numbers or pipelines; none for `/detect` alone.

    Attributes:
        token: that clients need; None where they need none.
        port: that is listened on.

    Raises:
        DataError: a source that is none. OutputError: the address is taken, or a folder cannot be written.
        UnknownNameError: a class that the model does not know. MissingPackageError: a package that is not installed.
    """

    def __init__(
        self,
        detector: Detector,
        sources: Sequence[str],
        options: ServeOptions = DEFAULT_OPTIONS,
        recording: RecordOptions = DEFAULT_RECORDING,
        *,
        tracking: TrackSettings = DEFAULT_TRACKING,
        limits: Limits | None = None,
    ) -> None:
        check_settings(options)
        check_settings(recording)
        self._detector, self._options = detector, options
        self._stopping, self._started_s = threading.Event(), time.perf_counter()
        self._classes = _known_classes(options.classes, detector.class_names)
        self._class_ids = [detector.class_names.index(name) for name in options.classes]
        endless = [make_endless_source(source) for source in sources]
        with contextlib.ExitStack() as opening:
            self.token = find_token(options.host, options.token_file)
            place = opening.enter_context(_listen(options.host, options.port))
            self.port: int = place.getsockname()[1]
            self._run = StreamsRun(
                detector, endless, reconnect_s=float("inf"), max_wait_ms=options.max_wait_ms, patient=True
            )
            opening.callback(self._run.close)
            for error in self._run.errors.values():
                raise error
            self._states = self._make_states(recording.record_absence, tracking)
            self._health = Health()
            self._recorder = self._open_recorder(recording, opening)
            self._open_web(place, limits or Limits(connections=options.max_clients + _OTHER_CONNECTIONS), opening)
            self._teller = self._open_teller(opening)
            self._closing = opening.pop_all()

    @property
    def url(self) -> str:
        """What to open in a browser."""
        host = self._options.host
        shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def run(self) -> None:
        """Until `stop` is called.

        Raises:
            BackendError: the detector failed.
        """
        notifier = Notifier()
        ticker = threading.Thread(target=self._tick_all, args=(notifier,), name="edgeyolo-tick", daemon=True)
        self._web.start()
        self._encoder.start()
        if self._teller is not None:
            self._teller.start()
        ticker.start()
        notifier.tell("READY=1")
        try:
            self._watch()
            self._stopping.wait()  # sources with an end are over; the last of them can still be asked for
        except EdgeYoloError as error:
            self._health.error = str(error)
            raise
        finally:
            notifier.tell("STOPPING=1")
            self.stop()
            ticker.join()

    def stop(self) -> None:
        """End `run`, from any thread or a signal handler."""
        self._stopping.set()
        self._run.stop()

    def status(self) -> dict[str, Any]:
        """What the page shows."""
        conditions, manifest = self._health.conditions, self._detector.manifest
        return {
            "model": self._detector.spec.name,
            "engine": f"{manifest.artefact.engine} {manifest.artefact.precision}" if manifest else "",
            "up_s": round(time.perf_counter() - self._started_s),
            "temperature_c": conditions.temperature_c,
            "throttled": list(conditions.throttled),
            "watchers": sum(picture.watchers for picture in self._pictures),
            "recording": self._recorder.status() if self._recorder else None,
            "broker": self._teller.is_connected if self._teller else None,
            "problem": self.problem(),
            "sources": [msgspec.to_builtins(state.status()) for state in self._states],
        }

    def problem(self) -> str:
        """What is wrong with the detector; empty where nothing is."""
        return self._health.problem(self._states)

    def close(self) -> None:
        """Let go of everything; the detector is not closed."""
        self.stop()
        self._closing.close()

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self) -> None:
        """Take results as they come and hand them out."""
        positions = {position: number for number, position in enumerate(self._run.feeds)}
        for _, image, detections in self._run if positions else ():
            number = positions[self._run.source]
            state = self._states[number]
            if self._class_ids:
                detections = _only(detections, self._class_ids)
            tracks = state.follower.update(detections, image) if state.follower else None
            appeared = state.note(image, detections, self._run.timing, tracks)
            self._metrics.observe(state.name, self._run.timing)
            self._encoder.notice(number)
            if self._recorder is not None:
                self._recorder.offer(state.name, image, detections, appeared)
        for state in self._states:
            state.has_ended = True

    def _tick_all(self, notifier: Notifier) -> None:
        due_s = 0.0
        while not self._stopping.wait(_TICK_S):
            self._health.read_conditions()
            for state, counts in zip(self._states, self._run.counts().values(), strict=True):
                state.counts = counts
            if self._teller is not None:
                self._teller.tell([state.status() for state in self._states], self._health.conditions.temperature_c)
            if notifier.every_s is not None and time.perf_counter() >= due_s and not self.problem():
                notifier.tell("WATCHDOG=1")
                due_s = time.perf_counter() + notifier.every_s

    def _make_states(self, absence_s: float, tracking: TrackSettings) -> list[SourceState]:
        options, names = self._options, self._detector.class_names
        if options.zones is not None and options.track is None:
            raise UsageError("zones count what is followed", where="--zones", hint="Give --track bytetrack too")
        zones = load_zones(options.zones) if options.zones else None
        followers = Followers(options.track, tracking, names, zones) if options.track else None
        return [
            SourceState(
                feed.stem, names, self._classes, absence_s, followers.of(feed.stem, feed.fps) if followers else None
            )
            for feed in self._run.feeds.values()
        ]

    def _open_web(self, place: socket.socket, limits: Limits, opening: contextlib.ExitStack) -> None:
        """The page, and what encodes its pictures."""
        detector, options = self._detector, self._options
        self._pictures = [LivePicture(state) for state in self._states]
        self._metrics = Metrics(self._states, lambda: self._health.conditions, detector.spec.name)
        access = Access(self.token, options.allow_host)
        routes = Routes(
            detector, self._pictures, self._metrics, access, options, status=self.status, problem=self.problem
        )
        self._web = Web(routes, place, limits, self._metrics.refuse)
        self._metrics.clients = lambda: self._web.connections
        self._encoder = Encoder(
            self._pictures, detector.class_names, self._web.loop, fps=options.page_fps, width=options.page_width
        )
        opening.callback(self._web.close)
        opening.callback(self._encoder.close)

    def _open_recorder(self, options: RecordOptions, opening: contextlib.ExitStack) -> Recorder | None:
        if options.record is None:
            return None
        names, model = self._detector.class_names, self._detector.spec.name
        return opening.enter_context(Recorder(options.record, options, names, self._classes, model))

    def _open_teller(self, opening: contextlib.ExitStack) -> Teller | None:
        options = self._options
        if options.mqtt is None:
            return None
        password = read_secret(options.mqtt_password_file, "--mqtt-password-file")
        topics = Topics(plain_name(options.mqtt_name or socket.gethostname()))
        names, model = [state.name for state in self._states], self._detector.spec.name
        broker = parse_broker(options.mqtt)
        teller = Teller(broker, password, topics, sources=names, classes=self._classes, model=model)
        opening.callback(teller.close)
        return teller


def _only(detections: Detections, class_ids: list[int]) -> Detections:
    """Those of some classes."""
    wanted = np.isin(detections.class_ids, class_ids)
    return Detections(detections.boxes_xyxy[wanted], detections.scores[wanted], detections.class_ids[wanted])


def _known_classes(wanted: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    for name in wanted:
        if name not in known:
            raise UnknownNameError("class", name, known, where="--classes")
    return wanted or known


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise OutputError(
            f"cannot be listened on ({error})", where=f"{host}:{port}", hint="Choose another --port or --host"
        ) from None
