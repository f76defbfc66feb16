"""Rockchip's NPUs (RK3588, RK3576, RK3566/3568, RV1126B), from the same Q/DQ graph as every other engine.

On a host the vendor's toolkit compiles the graph, and simulates the NPU where a bundle is opened; it runs in an
environment and a process of its own. On the board rknn-toolkit-lite2 runs what was compiled. Layers that write a tensor
with a scale are int8; the rest, such as the head's outputs, are float16.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path

from edgeyolo.backends._artefact import artefact_file, read_artefact
from edgeyolo.backends._batches import refuse_open_batch
from edgeyolo.backends._versions import check_version, list_version_problems
from edgeyolo.backends.engine import Engine, Finding, OwnEnvironment, Session
from edgeyolo.backends.rknn.board import NpuSession, check_chip, find_chip, find_driver, find_library
from edgeyolo.backends.rknn.graph import make_graph
from edgeyolo.backends.rknn.options import Options, make_options
from edgeyolo.backends.rknn.process import BUILD_LIMIT_S, ToolkitProcess
from edgeyolo.backends.rknn.simulator import SimulatorSession
from edgeyolo.backends.rknn.toolkit import (
    INSTALL,
    VERSION,
    check_computer,
    find_toolkit,
    has_toolkit,
    install_toolkit,
    toolkit_folder,
)
from edgeyolo.graph.external_data import refuse_external_data
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.errors import BackendError, MissingPackageError, UsageError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.packages import Package
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.qparams import QParams
from edgeyolo.spec.target import Precision, Target

logger = logging.getLogger(__name__)

_RKNN, _ONNX = "model.rknn", "model.onnx"
_NO_LAYER = re.compile(r"No lowering found for: (\S+), node type = (\w+)")
_NOTICE = f"""\
Rockchip's toolkit (rknn-toolkit2 {VERSION}) compiles for Rockchip's NPUs and simulates them. It is Rockchip's software
under the licence of Rockchip's SDK, and no part of edgeyolo: whoever installs it accepts that licence. pip downloads
about 350 MB (1.3 GB unpacked) into a folder of its own; no package of yours changes:"""


class RknnEngine(Engine):
    """Rockchip's NPUs, and their simulator."""

    name = "rknn"
    packages = (Package("rknn-toolkit-lite2", "rknnlite", "engine: Rockchip NPU, on the board", "rknn"),)
    lacks = ("DeformConv",)

    def check_target(self) -> str:
        """The most common board, where the simulator is here."""
        return "rockchip-rk3588-npu" if has_toolkit() else ""

    def is_simulated(self) -> bool:
        """Everywhere but on a board with such an NPU."""
        return not find_chip()

    def is_half(self, target: Target, precision: Precision) -> bool:
        """Whatever has no scale."""
        return True

    def probe(self, target: Target) -> list[str]:
        """What is missing here to build for `target`."""
        make_options(target.engine_options)
        try:
            find_toolkit(needed_for="building for a Rockchip NPU")
            return list_version_problems("rknn-toolkit2", VERSION, target)
        except (MissingPackageError, BackendError) as error:
            return [str(error)]

    def build(
        self,
        onnx_path: Path,
        spec: ModelSpec,
        qparams: QParams | None,
        target: Target,
        out: Path,
        *,
        precision: Precision,
        progress: Progress = SILENT,
    ) -> Artefact:
        """Write `model.rknn` for the board, and beside it the graph that it is compiled from, for the simulator."""
        options = make_options(target.engine_options)
        if precision not in ("int8", "fp16"):
            raise UsageError(f"rknn artefacts are int8 or fp16, not {precision}", where=target.title)
        toolkit = find_toolkit(needed_for="building for a Rockchip NPU")
        check_version("rknn-toolkit2", VERSION, target)
        refuse_open_batch(spec, engine="Rockchip's NPU")
        model, layers = make_graph(onnx_path, qparams, spec.input.batch)
        write_file(out / _ONNX, model.SerializeToString())
        version = _compile(toolkit, out, options, [spec.input.batch[1], 3, *spec.input.image_hw], where=onnx_path)
        return Artefact(
            engine="rknn",
            engine_version=version,
            precision=precision,
            files={"rknn": _RKNN, "onnx": _ONNX},
            options=dataclasses.asdict(options),
            layers=layers,
        )

    def open(
        self, folder: Path, artefact: Artefact, spec: ModelSpec, *, threads: int = 0, progress: Progress = SILENT
    ) -> Session:
        """On the NPU where this computer has one, else in the simulator."""
        options = make_options(artefact.options)
        rknn_path, onnx_path = (artefact_file(folder, artefact, role) for role in ("rknn", "onnx"))
        chip = find_chip()
        if chip:
            check_chip(options, chip)
            return NpuSession(rknn_path, options, spec)
        toolkit = find_toolkit(needed_for="simulating the Rockchip NPU that this bundle is for, as there is none here")
        raw = read_artefact(onnx_path)
        refuse_external_data(raw, where=onnx_path)
        logger.warning(
            "no Rockchip NPU is here: Rockchip's simulator stands in for the %s. Results are simulated, and times say "
            "nothing",
            options.chip,
        )
        return SimulatorSession(toolkit, onnx_path, options, spec)

    def examine(self) -> list[Finding]:
        """The chip, its driver and library on a board; the toolkit elsewhere."""
        chip = find_chip()
        if not chip:
            return [_examine_toolkit()]
        library, driver = find_library(), find_driver()
        hint = "Copy librknnrt.so of Rockchip's SDK to /usr/lib, of the toolkit's version or later"
        return [
            Finding("chip", chip),
            Finding("NPU driver", driver or "its version is not told"),
            Finding("librknnrt.so", library or "missing", "" if library else hint),
        ]

    def own_environment(self) -> OwnEnvironment:
        """Rockchip's toolkit, for building and for the simulator."""
        check_computer()
        return OwnEnvironment(f"{_NOTICE}\n{toolkit_folder()}", install_toolkit)

    def build_notes(self, folder: Path, artefact: Artefact) -> list[str]:
        """What the board must have."""
        return [f"The board needs librknnrt.so {artefact.engine_version} or later, and rknn-toolkit-lite2"]


def _compile(toolkit: Path, out: Path, options: Options, shape: list[int], *, where: Path) -> str:
    """The .rknn file of the ONNX file in `out`; gives the toolkit's version.

    Raises:
        BackendError: the toolkit refuses, or an operator of the graph is none of the NPU's. EngineCrashError: it died.
    """
    process = ToolkitProcess(toolkit)
    try:
        onnx_path, rknn_path = (str((out / name).resolve()) for name in (_ONNX, _RKNN))
        process.ask(
            "build", limit_s=BUILD_LIMIT_S, onnx=onnx_path, rknn=rknn_path, config=options.config(), shape=shape
        )
        # Such a file is written all the same, and no board runs it.
        lacking = [f"{found[2]} (layer '{found[1]}')" for line in process.said() if (found := _NO_LAYER.search(line))]
    finally:
        process.close()
    if lacking:
        raise BackendError(
            f"the NPU has no layer for {', '.join(lacking)}",
            where=where,
            hint="Change the model so that it does without, or deploy for the board's CPU, such as --target rk3588",
        )
    return process.version


def _examine_toolkit() -> Finding:
    try:
        return Finding("rknn-toolkit2", f"{VERSION} in {find_toolkit(needed_for='')}")
    except MissingPackageError:
        return Finding("rknn-toolkit2", "missing", f"To deploy for Rockchip's NPUs: {INSTALL}")
    except BackendError as error:
        return Finding("rknn-toolkit2", error.what, error.hint)


ENGINE = RknnEngine()
