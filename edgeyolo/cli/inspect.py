"""`edgeyolo inspect`: what a bundle says of itself, and what a file of others is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from edgeyolo.cli.console import Console
from edgeyolo.spec.deploying import InspectOptions
from edgeyolo.spec.errors import GateError, MissingPackageError
from edgeyolo.spec.figure import ScoreboardRow, scoreboard_rows

if TYPE_CHECKING:
    from edgeyolo.spec.manifest import Manifest
    from edgeyolo.spec.model import Decode, Origin
    from edgeyolo.spec.receptive_field import ReceptiveField

PANEL = "What there is"


def inspect(
    console: Console,
    bundle: Annotated[
        Path, typer.Argument(help="Bundle (.eyb) or its folder, official weights, a checkpoint, or an .onnx.")
    ],
    options: InspectOptions,
) -> None:
    """Verify a bundle and show its manifest; say what weights or an ONNX file are before they are imported."""
    from edgeyolo.cli._examined import show_file

    if options.qdq:
        _inspect_qdq(bundle, console)
        return
    if options.layers:
        _inspect_layers(bundle, console)
        return
    if show_file(bundle, console):
        return
    from edgeyolo.bundle import open_bundle

    with open_bundle(bundle) as opened:
        manifest = opened.manifest
        sizes = {name: (opened.folder / name).stat().st_size for name in sorted(manifest.sha256)}
        fields = manifest.receptive_fields or _fields_of_graph(opened.folder, manifest)
    console.show_table(["", ""], _describe(manifest), title=str(bundle))
    console.show_table(
        ["file", "bytes", "sha256"], [(name, size, manifest.sha256[name]) for name, size in sizes.items()]
    )
    if manifest.scores:
        console.show_scores(manifest.scores)
    if manifest.transfer is not None:
        console.show_transfer(manifest.transfer)
    if fields:
        console.show_table(["stride", "sees, px", "anchors, px"], _field_cells(fields, manifest.model.decode))
    rows = scoreboard_rows(manifest, sum(sizes.values()))
    console.show_table(["split", "AP float", "AP here", "bytes", "costs"], [_scoreboard_cells(row) for row in rows])
    console.say("Every file is what the manifest says.")
    told = {"scoreboard": rows, "receptive_fields": fields}
    console.show_json(msgspec.to_builtins(manifest) | msgspec.to_builtins(told))


def _fields_of_graph(folder: Path, manifest: Manifest) -> tuple[ReceptiveField, ...]:
    """From the ONNX file of a bundle of before they were recorded, if it has one and onnx is installed."""
    from edgeyolo.graph.qdq import load_onnx
    from edgeyolo.graph.receptive_field import receptive_fields

    for name in manifest.artefact.files.values():
        if name.endswith(".onnx"):
            try:
                return tuple(receptive_fields(load_onnx(folder / name), manifest.model.decode.strides))
            except MissingPackageError:
                break
    return ()


def _field_cells(fields: Sequence[ReceptiveField], decode: Decode) -> list[tuple[str, ...]]:
    """A row for each level: stride, height and width of what a cell sees, and the anchors where the head has some."""
    from edgeyolo.heads import head_of

    anchors = dict(zip(decode.strides, head_of(decode).anchors_wh or (), strict=False))
    return [
        (
            str(field.stride),
            " x ".join(map(str, field.theoretical_hw)) + (", and something of all" if field.sees_all else ""),
            ", ".join(f"{width:g} x {height:g}" for width, height in anchors.get(field.stride, ())) or "none",
        )
        for field in fields
    ]


def _inspect_layers(path: Path, console: Console) -> None:
    from edgeyolo.cli._bench import show_layers
    from edgeyolo.runtime.layer_runs import check_lists_layers, list_layers

    check_lists_layers(path)
    report = list_layers(path)
    show_layers(console, report)
    console.show_json(msgspec.to_builtins(report))


def _inspect_qdq(path: Path, console: Console) -> None:
    """The exit code is a gate's where there are problems."""
    from edgeyolo.graph.qdq import load_onnx
    from edgeyolo.graph.qdq_check import check_qdq

    found = check_qdq(load_onnx(path))
    console.show_table(["float layer", "why"], list(found.floats.items()), title=f"{path}: {len(found.int8)} int8")
    for crossing in found.crossings:
        console.say(f"Crosses between int8 and float: {crossing}")
    for problem in found.problems:
        console.say(f"Problem: {problem}")
    console.show_json(
        {
            "int8": list(found.int8),
            "floats": found.floats,
            "problems": list(found.problems),
            "crossings": list(found.crossings),
        }
    )
    if found.problems:
        console.exit_code = GateError.exit_code
    else:
        console.say("The Q/DQ is clean.")


def _scoreboard_cells(row: ScoreboardRow) -> tuple[object, ...]:
    costs = "; ".join(f"{figure.text} on {figure.source}" for figure in row.costs)
    size = "-" if row.size is None else int(row.size.value)
    reference, own = ("-" if figure is None else figure.text for figure in (row.ap_float, row.ap))
    return (row.split or "-", reference, own, size, costs or "-")


def _threshold_text(manifest: Manifest) -> str:
    if manifest.transfer is not None:
        return f"{manifest.score_threshold:g} of the float model, transferred class by class"
    return f"{manifest.score_threshold:g}"


def _origin_rows(origin: Origin | None) -> list[tuple[str, str]]:
    if origin is None:
        return []
    return [("weights", f"are, or began as, {origin.file} of {origin.source}"), ("licence of these", origin.licence)]


def _describe(manifest: Manifest) -> list[tuple[str, str]]:
    from edgeyolo.evaluation.tasks import task_of
    from edgeyolo.spec.machine import processor_name

    model, artefact = manifest.model, manifest.artefact
    layers = ", ".join(f"{count} {kind}" for kind, count in sorted(artefact.layers.items()))
    least, most = model.input.batch
    task = task_of(model.decode)
    at_once = "one picture" if most == 1 else f"{most} pictures" if least == most else f"up to {most} pictures"
    rows = [
        ("model", f"{model.name}, {model.activation}"),
        ("task", task.name),
        ("classes" if task.finds_boxes else "joints", ", ".join(model.class_names)),
        (
            "input",
            f"{model.input.image_hw[0]} x {model.input.image_hw[1]} (height x width), {model.input.colour_order}, "
            f"{at_once} at a time",
        ),
        ("decode", f"{type(model.decode).__struct_config__.tag}, strides {list(model.decode.strides)}"),
        *((("nms", manifest.nms), ("threshold", _threshold_text(manifest))) if task.finds_boxes else ()),
        *_origin_rows(model.origin),
        ("target", manifest.target),
        ("engine", f"{artefact.engine} {artefact.engine_version}, threads {manifest.threads or 'default'}"),
        ("precision", f"{artefact.precision} ({layers})" if layers else artefact.precision),
        ("options", ", ".join(f"{key}={value}" for key, value in artefact.options.items()) or "none"),
        ("created", manifest.created or "not recorded"),
    ]
    if artefact.choice is not None:
        costs = ", ".join(f"{name} {millions:.0f}" for name, millions in artefact.choice.instructions.items())
        rows.append(("chosen", f"for {artefact.choice.core}, by millions of instructions (estimated): {costs}"))
    rows += [(f"source {key}", value) for key, value in manifest.source.items()]
    rows += [
        (
            "latency",
            f"{t.total_ms_median:.2f} ms median, {t.total_ms_p90:.2f} ms p90 on {t.device}, {t.threads} threads",
        )
        for t in manifest.latency
    ]
    if manifest.tuning is not None:
        tuning = manifest.tuning
        kept = "; ".join(row.change for row in tuning.rows if row.kept) or "nothing was faster"
        unused = "" if tuning.device == processor_name() else "; not used on this computer"
        times = f"{tuning.default_ms:.2f} -> {tuning.tuned_ms:.2f} ms on {tuning.device}{unused}"
        rows.append(("tuned", f"{times}: {kept}"))
    rows.append(("tools", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())))
    return rows
