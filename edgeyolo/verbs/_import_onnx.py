"""`import` of an ONNX detector that others have exported -> a folder of model.onnx and model.json."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.atomic import check_replaceable, replacing_folder
from edgeyolo.spec.errors import OutputError, UsageError
from edgeyolo.spec.foreign import ForeignDescription
from edgeyolo.spec.importing import IMPORTED_FILES, ImportOptions
from edgeyolo.spec.memory import bounded_memory
from edgeyolo.spec.model import ModelRecord, ModelSpec, Origin
from edgeyolo.spec.provenance import sha256_of, tool_versions
from edgeyolo.spec.sizes import image_hw_of
from edgeyolo.spec.strict import encode_json, load_toml

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeyolo.graph.foreign import Guess

ONNX_SUFFIX = ".onnx"
_UNKNOWN = "unknown"
_MOST_TEXT = 200  # characters of the file's metadata that are passed on


@dataclass(frozen=True)
class ImportedGraph:
    """What `import_graph` wrote, and what of it nobody had said."""

    folder: Path
    model: ModelSpec
    guesses: tuple[Guess, ...]


def import_graph(file: Path, out: Path, options: ImportOptions | None = None) -> ImportedGraph:
    """Write a foreign detector as `model.onnx` and `model.json` to the folder `out`: for `quantize` and `deploy`.

    The graph is made plain (a fixed size, opset 19, simplified) and gives the same numbers as the file. Its raw maps
    are taken where they give the file's own boxes.

    Raises:
        BackendError: it cannot be read, or has something that cannot be carried; named by operator and node.
        FormatError: the description. UsageError: options for weights of the zoo, or class names that do not fit.
        OutputError: there is something in `out` already, or it cannot be written.
    """
    from edgeyolo.backends import list_packages
    from edgeyolo.graph.receptive_field import receptive_fields

    options = options or ImportOptions()
    if (out / "model.onnx").exists():
        raise OutputError("there is a model already", where=out, hint="Give another --out, or remove it")
    check_replaceable(out, IMPORTED_FILES, sources=(file,))
    graph, spec, guesses = read_graph(file, options)
    raw = graph.SerializeToString(deterministic=True)
    record = ModelRecord(
        model=spec,
        onnx_sha256=hashlib.sha256(raw).hexdigest(),
        receptive_fields=tuple(receptive_fields(graph, spec.decode.strides)),
        tools=tool_versions(list_packages()),
    )
    with replacing_folder(out, names=IMPORTED_FILES) as folder:
        (folder / "model.onnx").write_bytes(raw)
        (folder / "model.json").write_bytes(encode_json(record))
    return ImportedGraph(out, spec, guesses)


def read_graph(file: Path, options: ImportOptions) -> tuple[ModelProto, ModelSpec, tuple[Guess, ...]]:
    """The plain graph of a foreign detector, what it is, and what of that was guessed; errors as `import_graph`."""
    from edgeyolo.graph.foreign import describe, plain_graph, read_foreign, with_outputs

    if options.model is not None:
        raise UsageError("an ONNX file is of no model of the zoo", where=file, hint="Leave out --model")
    told = _told(options)
    with bounded_memory(where=file):
        model = read_foreign(file)
        graph = plain_graph(model, _image_hw(model, options.image_size), where=file)
        described = describe(graph, told, _names(options.names), where=file)
        result = with_outputs(graph, described)
    origin, guesses = _origin(model, told, file)
    spec = ModelSpec(
        name=file.stem,
        activation=_activation(result),
        class_names=described.class_names,
        input=described.input,
        decode=described.decode,
        origin=origin,
    )
    return result, spec, (*described.guesses, *guesses)


def _told(options: ImportOptions) -> ForeignDescription:
    import msgspec

    told = ForeignDescription()
    if options.describe is not None:
        told = load_toml(options.describe, ForeignDescription, defaults={})
    if options.head is None:
        return told
    if told.head not in (None, options.head):
        raise UsageError(f"says head = '{told.head}', and --head is {options.head}", where=options.describe)
    return msgspec.structs.replace(told, head=options.head)


def _image_hw(model: ModelProto, image_size: int | str | None) -> tuple[int, int] | None:
    """As asked for; else as the file fixes it, or its metadata names it."""
    from edgeyolo.graph.foreign.plain import own_size

    if image_size is not None:
        return image_hw_of(image_size)
    if own_size(model) is not None:
        return None
    text = _metadata(model, "imgsz")
    try:
        height, width = (int(side) for side in ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        return None
    return height, width


def _names(path: Path | None) -> tuple[str, ...] | None:
    from edgeyolo.verbs._import import read_names

    return None if path is None else read_names(path)


def _origin(model: ModelProto, told: ForeignDescription, file: Path) -> tuple[Origin, list[Guess]]:
    """Whose it is, by the description or the file's own metadata."""
    from edgeyolo.graph.foreign import Guess

    licence = told.licence or (_metadata(model, "license").split() or [_UNKNOWN])[0]
    source = told.source or _metadata(model, "author") or _UNKNOWN
    found = [("licence", told.licence, licence), ("source", told.source, source)]
    guesses = [
        Guess(what, value, "nothing says" if value == _UNKNOWN else "the file's metadata")
        for what, said, value in found
        if said is None
    ]
    return Origin(source=source, licence=licence, file=file.name, sha256=sha256_of(file)), guesses


def _metadata(model: ModelProto, key: str) -> str:
    return next((entry.value[:_MOST_TEXT] for entry in model.metadata_props if entry.key == key), "")


def _activation(model: ModelProto) -> str:
    """The activation that the graph has most of, as the zoo calls it."""
    names = {"Sigmoid": "silu", "LeakyRelu": "leaky_relu", "Relu": "relu", "HardSwish": "hardswish", "Mish": "mish"}
    kinds = [node.op_type for node in model.graph.node]
    most = max(names, key=kinds.count)
    return names[most] if most in kinds else "none"
