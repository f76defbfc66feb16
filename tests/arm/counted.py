"""What runs on the emulated core while instructions are counted: `counted.py JOBS.json`, a line of stdout for each job.

A job is {"engine": "ncnn", "param", "bin", "options", "input"}: a network, layer by layer; or {"engine", "model",
"input"} for onnxruntime and openvino: one whole inference. `input` is the shape (C, H, W) of the picture, noise.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """All jobs, one after another, without what Python does now and then."""
    gc.disable()
    for job in json.loads(Path(sys.argv[1]).read_text()):
        image = np.random.default_rng(0).random(job["input"], np.float32)
        marked = [mark(name, work) for name, work in STEPS[job["engine"]](job, image)]
        sys.stdout.write(json.dumps({"marked": marked}) + "\n")
        sys.stdout.flush()


def mark(name: str, work: Callable[[], object]) -> str:
    """Three marks: around the work, and around asking for it when it is done."""
    os.getppid()
    work()
    os.getppid()
    work()
    os.getppid()
    return name


def ncnn_steps(job: dict[str, Any], image: np.ndarray) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each layer in order; ncnn keeps what was extracted, so that asking again computes nothing."""
    import ncnn

    net = ncnn.Net()
    for name, value in job["options"].items():
        if hasattr(net.opt, name):
            setattr(net.opt, name, value)
    net.opt.num_threads = 1
    if net.load_param(job["param"]) != 0 or net.load_model(job["bin"]) != 0:
        raise SystemExit(f"ncnn cannot load {job['param']}")
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image).clone())  # a copy of ncnn's own: layers may work in place
    for layer in net.layers():
        if layer.type != "Input":
            top = layer.tops[0]
            yield layer.name, lambda top=top: extractor.extract(top, 1)


def onnxruntime_steps(job: dict[str, Any], image: np.ndarray) -> Iterator[tuple[str, Callable[[], object]]]:
    """The second run of a session, against nothing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image[None]}
    session.run(None, feed)
    yield "all", once(lambda: session.run(None, feed))


def openvino_steps(job: dict[str, Any], image: np.ndarray) -> Iterator[tuple[str, Callable[[], object]]]:
    """The second run of a compiled model, against nothing."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(job["model"], "CPU", settings)
    request = compiled.create_infer_request()
    request.infer([image[None]])
    yield "all", once(lambda: request.infer([image[None]]))


def once(work: Callable[[], object]) -> Callable[[], object]:
    """The work at the first call, nothing after."""
    calls = iter([work])
    return lambda: next(calls, lambda: None)()


STEPS = {"ncnn": ncnn_steps, "onnxruntime": onnxruntime_steps, "openvino": openvino_steps}

if __name__ == "__main__":
    main()
