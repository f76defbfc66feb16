"""Options of `serve`: who may look and send, what is told to whom, and what is kept of what was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeyolo.spec.settings import Count, NotNegative, PartBelowOne, Positive, WholeNumber
from edgeyolo.spec.tracking import TrackMethod

Port = Annotated[int, Meta(ge=0, le=65535)]
WhenFull = Literal["oldest", "stop"]


class ServeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The page, and what is told to other programs.

    Attributes:
        host: address to listen on; any but this computer's own (127.0.0.1, ::1) asks everyone for a token.
        port: port to listen on, 0 for any that is free.
        token_file: file that holds the token, made with a new one where there is none; without it, a new one for each
            run where host asks for one.
        allow_host: name that this computer is called by in the browser, beside its own and its addresses; may be given
            again.
        classes: class that is counted, shown, told and recorded; may be given again; all if none is.
        track: follow objects from frame to frame, which gives them numbers; bytetrack, or botsort, which also follows
            the camera.
        zones: with track, a TOML file of lines and areas to count in.
        max_clients: live pictures that are sent at the same time.
        max_upload_mib: MiB of a picture sent to /detect.
        max_megapixels: pixels of such a picture, in millions.
        detect_rate: pictures a second that /detect takes from all clients together.
        page_fps: live pictures a second, at most.
        page_width: pixels that a live picture is wide, at most.
        threads: threads of the engine, 0 for the bundle's number or fewer, as other work leaves cores.
        max_wait_ms: milliseconds that a frame waits for those of other sources, to be computed together with them.
        mqtt: broker that is told, such as 192.168.1.5 or mqtts://user@broker:8883; Home Assistant finds it there.
        mqtt_password_file: file that holds the password for the broker.
        mqtt_name: what this computer is called there; its host name if not given.
    """

    host: str = "127.0.0.1"
    port: Port = 8080
    token_file: Path | None = None
    allow_host: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    track: TrackMethod | None = None
    zones: Path | None = None
    max_clients: Count = 32
    max_upload_mib: Positive = 10.0
    max_megapixels: Positive = 24.0
    detect_rate: Positive = 5.0
    page_fps: Positive = 10.0
    page_width: Count = 960
    threads: WholeNumber = 0
    max_wait_ms: NotNegative = 10.0
    mqtt: str | None = None
    mqtt_password_file: Path | None = None
    mqtt_name: str | None = None


class RecordOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which pictures `serve` keeps, to be labelled later.

    Attributes:
        record: folder for pictures, with what was found in them; one is kept when a class appears.
        record_every: seconds between two pictures of a source, at least.
        record_absence: seconds after which a class that was not seen appears anew.
        record_limit_mib: MiB that the folder may hold.
        record_full: what happens then: the oldest pictures are removed, or recording stops.
    """

    record: Path | None = None
    record_every: NotNegative = 10.0
    record_absence: NotNegative = 5.0
    record_limit_mib: Positive = 1024.0
    record_full: WhenFull = "oldest"


class RecordingsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How recordings become a data set.

    Attributes:
        out: folder to make, in YOLO layout: data.yaml, images and labels.
        val: part of the pictures for the validation split, the latest ones of each source.
        score_threshold: detections with a lower score are no proposals.
    """

    out: Path
    val: PartBelowOne = 0.2
    score_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.0


class ServiceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `service` prints.

    Attributes:
        kind: systemd for a unit, docker for a Dockerfile.
    """

    kind: Literal["systemd", "docker"] = "systemd"
