"""Runs Rockchip's toolkit; `process` starts it in a Python that sees the toolkit's packages and none of ours.

A line of JSON on stdin asks, a line on stdout answers: {"do": NAME, ...} and {"done": ...} or {"refused": WHY}. A
picture follows its line, and raw maps follow theirs, as .npy files whose lengths in bytes are "arrays". What the
toolkit prints goes to stderr.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import io
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Arrays = list[npt.NDArray[np.float32]]

_PAUSE_S = 1.0


class Refused(Exception):
    """The toolkit says no; it has printed why."""


class Worker:
    """Answers questions; keeps the network that was opened last."""

    def __init__(self) -> None:
        self.network: Any = None

    def hello(self) -> tuple[dict[str, str], Arrays]:
        """Import the toolkit and tell its version."""
        import rknn.api  # noqa: F401

        return {"version": importlib.metadata.version("rknn-toolkit2")}, []

    def build(self, onnx: str, rknn: str, config: dict[str, Any], shape: list[int]) -> tuple[dict[str, str], Arrays]:
        """Compile an ONNX file and write the .rknn file."""
        network = compile_graph(onnx, config, shape)
        check(network.export_rknn(rknn), "write the .rknn file")
        network.release()
        return {}, []

    def open(self, onnx: str, config: dict[str, Any], shape: list[int]) -> tuple[dict[str, str], Arrays]:
        """Compile an ONNX file for the simulator, which opens no .rknn file."""
        self.network = compile_graph(onnx, config, shape)
        check(self.network.init_runtime(), "start the simulator")
        return {}, []

    def run(self, image: npt.NDArray[np.float32]) -> tuple[dict[str, str], Arrays]:
        """(1, 3, H, W) -> one array for each output."""
        maps = self.network.inference(inputs=[image], data_format=["nchw"])
        if maps is None:
            raise Refused("run the network")
        return {}, maps


def compile_graph(onnx: str, config: dict[str, Any], shape: list[int]) -> Any:
    """The network of an ONNX file; Q/DQ in it says what is int8, the rest is float16."""
    from rknn.api import RKNN

    network = RKNN()
    check(network.config(**config), "take its configuration")
    check(network.load_onnx(model=onnx, inputs=["images"], input_size_list=[shape]), "read the model")
    check(network.build(do_quantization=False), "build the model")
    return network


def check(code: int, what: str) -> None:
    """The toolkit's functions give 0 where all is well."""
    if code != 0:
        raise Refused(what)


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the questions end."""
    import numpy as np

    worker = Worker()
    for line in iter(questions.readline, b""):
        asked = json.loads(line)
        pictures = [np.load(io.BytesIO(questions.read(n)), allow_pickle=False) for n in asked.pop("arrays")]
        arrays: Arrays = []
        try:
            done, arrays = getattr(worker, asked.pop("do"))(*pictures, **asked)
            answer: dict[str, Any] = {"done": done}
        except Refused as error:
            answer = {"refused": f"does not {error}"}
        except (Exception, SystemExit) as error:  # the toolkit raises anything, and ends processes
            told = [line for line in str(error).splitlines() if line.strip()]  # often a whole traceback
            answer = {"refused": f"stops with {type(error).__name__}: {told[-1] if told else 'no reason is given'}"}
        files = [io.BytesIO() for _ in arrays]
        for file, array in zip(files, arrays, strict=True):
            np.save(file, np.asarray(array, np.float32), allow_pickle=False)
        answer["arrays"] = [len(file.getvalue()) for file in files]
        sys.stdout.flush()
        ctypes.CDLL(None).fflush(None)  # what its C++ part has printed
        answers.write(json.dumps(answer).encode() + b"\n" + b"".join(file.getvalue() for file in files))
        answers.flush()


def leave_with(parent: int) -> None:
    """End when the process that asks has ended, also where the toolkit is in the middle of something."""
    while os.getppid() == parent:
        time.sleep(_PAUSE_S)
    os._exit(1)


def main() -> None:
    """Take the folder of packages, and the number of the process that asks."""
    sys.path.insert(0, sys.argv[1])
    threading.Thread(target=leave_with, args=(int(sys.argv[2]),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the toolkit prints on both
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
