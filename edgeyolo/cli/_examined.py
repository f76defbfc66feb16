"""What `inspect` shows of files that are no bundles: official weights, checkpoints, and ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeyolo.cli.console import Console

if TYPE_CHECKING:
    from edgeyolo.spec.model import ModelSpec

_WEIGHTS = (".pt", ".pth", ".pdparams", ".weights", ".ckpt")
_CHECKPOINT = ".safetensors"
_SHOWN = 6  # class names, and kinds of operator


def show_file(path: Path, console: Console) -> bool:
    """Show what a file or folder of another kind than a bundle is; False for what may be a bundle."""
    if path.suffix == ".onnx":
        _show_graph(path, console)
    elif path.suffix in _WEIGHTS:
        _show_weights(path, console)
    elif path.suffix == _CHECKPOINT or (path / f"best{_CHECKPOINT}").is_file():
        _show_checkpoint(path, console)
    elif (path / "model.json").is_file():
        _show_folder(path, console)
    else:
        return False
    return True


def _show_weights(path: Path, console: Console) -> None:
    from edgeyolo import verbs

    found = verbs.examine_weights(path)
    if not found.model:
        nearest = "none that is known: less than half of its tensors have a place in any"
    else:
        nearest = " or ".join((found.model, *found.others)) if found.fits else f"{found.model}, altered or not whole"
    rows = [("tensors", f"{found.tensors:,}"), ("numbers in them", f"{found.parameters:,}"), ("model", nearest)]
    if found.origin is not None:
        rows += [("family", found.family), ("classes", str(found.num_classes or "cannot be told"))]
        rows += [("published by", found.origin.source), ("licence", found.origin.licence)]
        rows += [("sha256", found.origin.sha256)]
    for kind, (count, names) in found.misfits.items():
        rows.append((f"{kind}: {count}", ", ".join(names) + (" ..." if count > len(names) else "")))
    console.show_table(["", ""], rows, title=str(path))
    if found.fits:
        given = "" if found.num_classes == 80 else " --names FILE"
        console.say(f"Next: edgeyolo import {path}{given} --out FOLDER")
    console.show_json(msgspec.to_builtins(found))


def _show_checkpoint(path: Path, console: Console) -> None:
    from edgeyolo.training.checkpoint import checkpoint_path, read_record

    record = read_record(checkpoint_path(path))
    rows = [("checkpoint of", record.model.name), *_rows_of(record.model), ("epochs", str(record.epoch))]
    console.show_table(["", ""], rows, title=str(path))
    if record.score is not None:
        console.show_scores([record.score])
    console.say(f"Next: edgeyolo quantize {path} --data DATA --out FOLDER")
    console.show_json(msgspec.to_builtins(record))


def _show_folder(path: Path, console: Console) -> None:
    from edgeyolo.spec.model import ModelRecord
    from edgeyolo.spec.strict import load_json

    record = load_json(path / "model.json", ModelRecord)
    scales = "with scales" if (path / "qparams.json").is_file() else "float"
    console.show_table(
        ["", ""], [("model", f"{record.model.name}, {scales}"), *_rows_of(record.model)], title=str(path)
    )
    if record.scores:
        console.show_scores(record.scores)
    console.say(f"Next: edgeyolo deploy {path} --target host-cpu --out NAME.eyb")
    console.show_json(msgspec.to_builtins(record))


def _show_graph(path: Path, console: Console) -> None:
    from edgeyolo import verbs

    found = verbs.examine_graph(path)
    most = [f"{count} {kind}" for kind, count in list(found.operators.items())[:_SHOWN]]
    rows = [
        ("opset", str(found.opset)),
        ("takes", _sizes(found.inputs)),
        ("gives", _sizes(found.outputs)),
        ("nodes", f"{sum(found.operators.values())}: {', '.join(most)} ..."),
        ("numbers in it", f"{found.parameters:,}"),
    ]
    if found.model is not None:
        rows += _rows_of(found.model)
    console.show_table(["", ""], rows, title=str(path))
    if found.guesses:
        guesses = [(guess.what, guess.value, guess.why) for guess in found.guesses]
        console.show_table(["guessed", "as", "by"], guesses)
    if found.refusal:
        console.say(f"`edgeyolo import` would not take it as it is: {found.refusal}")
    else:
        console.say(f"Next: edgeyolo import {path} --out FOLDER")
    console.show_json(msgspec.to_builtins(found))


def _rows_of(model: ModelSpec) -> list[tuple[str, str]]:
    names = ", ".join(model.class_names[:_SHOWN]) + (" ..." if len(model.class_names) > _SHOWN else "")
    decode = model.decode
    rows = [
        ("classes", f"{len(model.class_names)}: {names}"),
        ("input", "{} x {} (height x width), {}".format(*model.input.image_hw, model.input.colour_order)),
        ("head", f"{type(decode).__struct_config__.tag}, strides {list(decode.strides)}"),
    ]
    if model.origin is not None:
        rows += [("weights", f"{model.origin.file} of {model.origin.source}"), ("licence", model.origin.licence)]
    return rows


def _sizes(entries: dict[str, list[int | str]]) -> str:
    return "; ".join(f"{name} {' x '.join(map(str, sizes))}" for name, sizes in entries.items())
