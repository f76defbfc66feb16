"""`edgeyolo serve`: what the board sees, on a page, for Prometheus, over MQTT, and kept to be labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeyolo.cli._detector import load_detector
from edgeyolo.cli._signals import stopping_on_signals
from edgeyolo.cli.console import Console
from edgeyolo.cli.flags import Shown
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.serving import RecordOptions, ServeOptions
from edgeyolo.spec.tracking import TrackSettings

PANEL = "On the board"


def serve(
    console: Console,
    bundle: Annotated[Path, typer.Argument(help="Bundle that `edgeyolo deploy` wrote.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Videos, addresses (rtsp://...), camera numbers, pipelines (csi://0); none for /detect alone."
        ),
    ] = None,
    *,
    thresholds: Thresholds,
    options: ServeOptions,
    recording: RecordOptions,
    tracking: Annotated[TrackSettings, Shown()],
) -> None:
    """Show on a page what the board sees, until Ctrl-C.

    The page is at http://127.0.0.1:8080; /metrics is for Prometheus, /detect takes a picture (POST) and answers JSON,
    /healthz says whether all is well. A source that goes away is tried again until it is back; a video file is played
    again and again. With --track, detections count from the low_threshold of the tracker on, unless you give
    another score threshold; --set and --config set the tracker.
    """
    from edgeyolo.live import Live

    lowest = tracking.low_threshold if options.track else None
    detector = load_detector(console, bundle, thresholds, threads=options.threads, lowest=lowest)
    with (
        detector,
        Live(detector, sources or [], options, recording, tracking=tracking) as live,
        stopping_on_signals(live.stop),
    ):
        url = live.url if options.token_file is None else live.url.partition("?")[0]  # logs are read by others
        console.say(f"Open {url}")
        if live.token is None:
            console.say("Only this computer can; --host 0.0.0.0 lets others, with a token")
        elif options.token_file is not None:
            console.say(f"The token is in {options.token_file}")
        console.show_json_line({"url": url, "port": live.port})
        live.run()
