"""The layers of a compiled network, as OpenVINO's runtime model lists them: types, kernels, and times of each."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from edgeyolo.spec.layers import LayerReport, LayerRun, make_layer_report

_PRECISIONS = {"u8": "int8", "i8": "int8", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_CONVERTING = ("Reorder", "Convert", "FakeQuantize")
_OF_NO_TIME = ("Input", "Output", "Result", "Const")


def report_layers(compiled: Any, run: Callable[[Any], object], *, runs: int) -> LayerReport:
    """Precision and median time of each layer that was executed.

    Args:
        compiled: with its performance counters on.
        run: makes a request of it run.
    """
    request = compiled.create_infer_request()
    run(request)  # warms up
    times_ms: dict[str, list[float]] = {}
    for _ in range(runs):
        run(request)
        for info in request.get_profiling_info():
            if info.status.name == "EXECUTED":
                times_ms.setdefault(info.node_name, []).append(info.real_time.total_seconds() * 1e3)
    rows = [
        _describe(node, statistics.median(times_ms[node.friendly_name]))
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.friendly_name in times_ms and _told(node, "layerType") not in _OF_NO_TIME
    ]
    return make_layer_report(rows, method="OpenVINO's runtime model and performance counters", runs=runs)


def _describe(node: Any, ms: float) -> LayerRun:
    kind, kernel = _told(node, "layerType"), _told(node, "primitiveType")
    origins = [name for name in _told(node, "originalLayersNames").split(",") if name]
    rounds_only = bool(origins) and all(name.startswith("qdq/") for name in origins)
    return LayerRun(
        name=node.friendly_name,
        kind=f"{kind} ({kernel})",
        precision=_PRECISIONS.get(_told(node, "runtimePrecision"), ""),
        takes=_gives(node.input_value(0).get_node()) if node.get_input_size() else "",
        gives=_gives(node),
        is_conversion=kind in _CONVERTING or rounds_only,
        ms=ms,
    )


def _gives(node: Any) -> str:
    """Precision of a node's first output."""
    return _PRECISIONS.get(_told(node, "outputPrecisions").partition(",")[0], "")


def _told(node: Any, key: str) -> str:
    """What the runtime model says of a node, "" where nothing."""
    told = node.get_rt_info()
    return str(told[key].value if hasattr(told[key], "value") else told[key]) if key in told else ""
