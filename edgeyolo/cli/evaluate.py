"""`edgeyolo evaluate`: accuracy of a bundle or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.cli.flags import Shown
from edgeyolo.spec.boards import HostOptions
from edgeyolo.spec.deploying import EvaluateOptions
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.machine import is_first_process
from edgeyolo.spec.tracking import FollowOptions, TrackSettings

PANEL = "The way to a board"


def evaluate(
    console: Console,
    source: Annotated[Path, typer.Argument(help="Bundle (or its folder), checkpoint, or folder with a model.onnx.")],
    data: Annotated[Path, typer.Option(help="Data set.")],
    options: EvaluateOptions,
    hosts: HostOptions,
    follow: FollowOptions,
    tracking: Annotated[TrackSettings, Shown()],
) -> None:
    """Measure accuracy, here or on boards (COCO definitions, AP in percent), or how well objects are followed.

    With --track, DATA is a sequence in the layout of the MOT challenges (gt/gt.txt, img1), or a folder of them.
    """
    from edgeyolo import verbs
    from edgeyolo.cli import _boards

    if follow.track is not None or _has_track_files(source):
        _evaluate_tracks(console, source, data, options, hosts, follow, tracking)
        return
    if hosts.host:
        _boards.evaluate_on_hosts(console, source, data, options, hosts)
        return

    with console.show_progress() as progress:
        score = verbs.evaluate(
            source,
            data,
            split=options.split,
            threads=options.threads,
            nms=options.nms,
            boxes=options.boxes,
            record=options.record,
            reference=options.reference,
            score_threshold=options.score_threshold,
            match=options.match,
            device=options.device,
            progress=progress,
        )
    if not is_first_process():
        return  # the first process of several speaks for all
    console.show_scores([score])
    console.show_table(["class", "AP"], sorted(score.per_class.items()))
    transfer = verbs.transfer_of(source)
    if transfer is not None:
        console.show_transfer(transfer)
    if options.record:
        console.say(f"Wrote the score into {source}")
    console.show_json(msgspec.to_builtins(score) | {"transfer": msgspec.to_builtins(transfer)})


def _has_track_files(source: Path) -> bool:
    """Whether it is a folder of text files and nothing that `evaluate` takes otherwise."""
    others = ("manifest.json", "model.onnx", "model.json")
    return source.is_dir() and any(source.glob("*.txt")) and not any((source / name).exists() for name in others)


def _evaluate_tracks(
    console: Console,
    source: Path,
    data: Path,
    options: EvaluateOptions,
    hosts: HostOptions,
    follow: FollowOptions,
    tracking: TrackSettings,
) -> None:
    from edgeyolo import verbs

    if hosts.host or options.record or options.reference or options.nms:
        raise UsageError("--host, --record, --reference and --nms do not go with tracks", hint="Leave them out")
    if follow.track is None:
        score = verbs.score_track_files(source, data)
    else:
        with console.show_progress() as progress:
            score = verbs.evaluate_tracks(
                source,
                data,
                follow.track,
                settings=tracking,
                classes=follow.classes,
                threads=options.threads,
                progress=progress,
            )
    columns = ["sequence", "frames", "boxes", "objects", "HOTA", "DetA", "AssA", "MOTA", "IDF1", "switches"]
    rows = [
        (name, s.frames, s.boxes, s.objects, s.hota, s.det_a, s.ass_a, s.mota, s.idf1, s.id_switches)
        for name, s in [*score.per_sequence.items(), ("all", score.overall)]
    ]
    console.show_table(columns, rows, title=f"{score.artefact}, {score.method}, on {score.data}")
    console.show_json(msgspec.to_builtins(score))
