"""Runs pnnx, ncnn's converter, on model.onnx. The program is in the pnnx wheel; it needs neither torch nor a board."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.backends.ncnn.files import Layer, parse_param, read_bin
from edgeyolo.backends.ncnn.shapes import is_known_kind
from edgeyolo.graph.opset import lower_opset, reduces_by_input
from edgeyolo.spec.errors import BackendError, MissingPackageError
from edgeyolo.spec.packages import install_command

if TYPE_CHECKING:
    from onnx import NodeProto

_TIMEOUT_S = 900
_TAIL_LINES = 6


def find_pnnx() -> Path:
    """The program, found without importing its package (which imports torch).

    Raises:
        MissingPackageError: not installed.
    """
    spec = importlib.util.find_spec("pnnx")
    name = "pnnx.exe" if sys.platform == "win32" else "pnnx"
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).with_name(name)
        if program.is_file():
            return program
    raise MissingPackageError("pnnx", needed_for="building ncnn artefacts", install=install_command("train"))


def convert(onnx_path: Path, image_hw: tuple[int, int]) -> list[Layer]:
    """The ncnn network of an ONNX file, float32, for one picture of that size.

    Raises:
        MissingPackageError: no pnnx. BackendError: it fails, with the end of what it says; or an operator of the model
            that ncnn has no layer for.
    """
    program = find_pnnx()
    with tempfile.TemporaryDirectory(prefix="edgeyolo-pnnx-") as work:
        folder = Path(work)
        _place_graph(onnx_path, folder / "model.onnx")
        shape = f"inputshape=[1,3,{image_hw[0]},{image_hw[1]}]"
        said = _run([str(program), "model.onnx", shape, "fp16=0"], folder)
        param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
        if not (param.is_file() and weights.is_file()):
            raise BackendError(f"pnnx wrote no ncnn model. It said:\n{said}", where=onnx_path)
        text = param.read_text(encoding="utf-8", errors="replace")
        _check_operators(text, where=onnx_path)
        layers = parse_param(_with_own_names(text), where=param.name)
        return read_bin(layers, weights.read_bytes(), where=weights.name)


def _place_graph(onnx_path: Path, out: Path) -> None:
    """Copy the graph; its reductions as pnnx reads them: axes as an attribute, and one at a time for a maximum."""
    import onnx

    model = onnx.load(onnx_path)
    if not reduces_by_input(model):
        shutil.copyfile(onnx_path, out)
        return
    model = lower_opset(model)
    nodes = [step for node in model.graph.node for step in _one_axis_each(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, out)


def _one_axis_each(node: NodeProto) -> list[NodeProto]:
    """A maximum over some axes as a maximum over each in turn; any other node as it is."""
    from onnx import NodeProto, helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    axes = attributes.get("axes", [])
    if node.op_type != "ReduceMax" or len(axes) < 2 or not attributes.get("keepdims", 1):
        return [NodeProto.FromString(node.SerializeToString())]
    names = [node.input[0], *(f"{node.output[0]}/{axis}" for axis in axes[1:]), node.output[0]]
    return [
        helper.make_node("ReduceMax", [source], [result], result, axes=[axis], keepdims=1)
        for axis, source, result in zip(axes, names[:-1], names[1:], strict=True)
    ]


def _check_operators(param_text: str, *, where: Path) -> None:
    """pnnx writes what it cannot convert under the operator's own name; name that before the engine meets it."""
    lines = [line.split(maxsplit=2) for line in param_text.splitlines()[2:]]
    unknown = [words[:2] for words in lines if len(words) == 3 and not is_known_kind(words[0])]
    # A pnnx.Expression is only a constant that such an operator reads, unless there is nothing else.
    told = [words for words in unknown if words[0] != "pnnx.Expression"] or unknown
    if told:
        layers = ", ".join(f"{kind} (layer '{name}')" for kind, name in told)
        raise BackendError(
            f"ncnn has no layer for {layers}",
            where=where,
            hint="Change the model so that it does without, or deploy for another engine, such as --target host-onnx",
        )


def _with_own_names(param_text: str) -> str:
    """The same with a name of its own for each layer: pnnx calls the first copy of a constant "splitncnn_0" again."""
    head, lines, taken = param_text.splitlines()[:2], [], set()
    for line in param_text.splitlines()[2:]:
        words = line.split()
        while len(words) > 1 and words[1] in taken:
            words[1] += "_"
        taken.update(words[1:2])
        lines.append(" ".join(words))
    return "\n".join([*head, *lines, ""])


def _run(command: list[str], folder: Path) -> str:
    """The end of what the command says."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"pnnx did not end within {_TIMEOUT_S} s") from None
    except OSError as error:
        raise BackendError(f"pnnx cannot be run ({error.strerror})", where=command[0]) from None
    said = "\n".join(done.stdout.decode("utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
    if done.returncode != 0:
        raise BackendError(f"pnnx ended with {done.returncode}. It said:\n{said}")
    return said
