"""In: model.onnx, its `ModelSpec`, scales and a target. Out: the files that another program reads, as a `HandOff`.

Verb: `hand_off`. A program is one module of this folder with a `PROGRAM`; the folder is the registry.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeyolo.backends import check_scales, load_engine
from edgeyolo.graph.entry import normalise_inside
from edgeyolo.graph.postprocess import append_rows
from edgeyolo.graph.qdq import int8_layers, load_onnx, weighted_nodes
from edgeyolo.handoffs.program import MODEL, HandOff, Program
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.guests import list_guests, load_guest
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.target import Precision, Target, needs_scales

__all__ = ["HandOff", "Program", "hand_off", "list_programs", "load_program"]

_READER = "onnxruntime"  # opens here what was written


def list_programs() -> list[str]:
    """Names of the programs known."""
    return list_guests(__name__, "program")


def load_program(name: str) -> Program:
    """A program by its name.

    Raises:
        UnknownNameError: no such program.
    """
    program: Program = load_guest(__name__, "program", name)
    return program


def hand_off(
    onnx_path: Path, spec: ModelSpec, qparams: QParams | None, target: Target, out: Path, *, precision: Precision
) -> HandOff:
    """Write what the target's program reads into the folder `out`.

    The graph takes pixel / 255 and decodes its boxes itself. ONNX Runtime opens it here, so that the very file can be
    measured.

    Args:
        qparams: scales of that very file, for int8.

    Raises:
        UnknownNameError: no such program or engine. UsageError: a model that the program cannot take.
        BackendError: a graph that is decoded already, or that the program's engine cannot run.
    """
    load_engine(target.engine)
    program = load_program(target.program)
    _check_names(spec, program.name)
    program.check(spec)
    if needs_scales(precision):
        check_scales(onnx_path, qparams)
    model = load_onnx(onnx_path)
    graph = program.make_graph(model, qparams, precision)
    graph, decode = append_rows(graph, spec.decode, program.layout, num_classes=len(spec.class_names))
    graph, entry = normalise_inside(graph, spec.input)
    written = msgspec.structs.replace(spec, decode=decode, input=entry)
    write_file(out / MODEL, graph.SerializeToString())
    write_file(out / program.labels_file, program.make_labels(written).encode())
    write_file(out / program.config_file, program.make_config(written, precision).encode())
    nodes = weighted_nodes(model.graph)
    total = sum(len(readers) for readers in nodes.values())
    int8 = sum(len(nodes[weight]) for weight in int8_layers(model.graph, qparams)) if qparams else 0
    artefact = Artefact(
        engine=_READER,
        engine_version=f"for {program.name}",
        precision=precision,
        files={"onnx": MODEL},  # the others are for people to edit
        layers={"int8": int8, "float": total - int8} if qparams else {"float": total},
    )
    return HandOff(artefact, written, tuple(program.list_steps(precision)))


def _check_names(spec: ModelSpec, program: str) -> None:
    """The files of labels have one name a line."""
    for name in spec.class_names:
        if not name.strip() or not name.isprintable():
            raise UsageError(f"class name {name!r} cannot be written for {program}", hint="Rename it in the data set")
