"""How good `edgeyolo estimate` is: networks that others measured, each left out with its int8 twin.

    python benchmarks/estimate.py ../shared/data/ncnn_benchmark --work runs/estimate [--export-only]

Three checks. Left out: each network of ncnn's table on each board, as if nobody had measured it there, timed on the
known computer or not. Elsewhere: the same, with a network timed on another x86 computer of the table, networks of the
table being the rulers. Detectors: what others published of detectors that are not in the table; these are exported into
--work with random weights (minutes) and timed here, which wants an idle computer. Draws docs/latency.png.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from estimate_data import read_table
from record import RESULTS, ROOT, save_result

from edgeyolo.latency import Network, estimate, list_boards, load_board
from edgeyolo.latency.here import Pace, convert
from edgeyolo.latency.networks import load_known, twins
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.latency import Estimate, EstimateOptions
from edgeyolo.spec.work import Convolution

OUT = RESULTS / "estimate.json"
PICTURE = ROOT / "docs" / "latency.png"
ASKED = {
    "raspberry-pi-3": (1, 4),
    "raspberry-pi-4": (1, 4),
    "raspberry-pi-5": (1, 4),
    "rk3588": (1, 4),
    "jetson-orin-nano-cpu": (1, 6),
    "jetson-agx-orin-cpu": (1, 4),
}
# Networks of the table that stand for rulers, and x86 computers of it that stand for the user's.
RULERS = {
    "pointwise": "squeezenet",
    "spatial": "resnet18",
    "depthwise": "mobilenet_v2",
    "pointwise int8": "squeezenet_int8",
    "spatial int8": "resnet18_int8",
}
ELSEWHERE = (
    "AMD Ryzen Embedded V1605B",
    "AMD Ryzen 5700g",
    "Hyper-V Linux Guest with GPU-PV enabled (Intel Core i7-11800H",
    "Hyper-V Linux Guest with GPU-PV enabled (Intel Core i7-7700K",
    "AMD EPYC 7742",
    "Intel Celeron N5105",
    "Microsoft Azure Standard D64s v6",
    "Microsoft Azure Standard D64as v7",
)
OLDER = "Rockchip RK3588 (Cortex-A76"  # the run that the board's file leaves out
QENGINEERING = "Qengineering/YoloX-ncnn-Raspberry-Pi-4, README"
# Board, how much faster than stock its clock was, model, picture, milliseconds.
DETECTORS = (
    ("raspberry-pi-5", 2.9 / 2.4, "yolov7-tiny", 640, 69.4),
    ("raspberry-pi-5", 2.9 / 2.4, "yolov8n", 640, 50.0),
    ("raspberry-pi-5", 2.9 / 2.4, "yolov8s", 640, 90.9),
    ("raspberry-pi-5", 2.9 / 2.4, "yolov6n", 640, 63.3),
    ("raspberry-pi-5", 2.9 / 2.4, "yolov5n", 640, 73.5),
    ("raspberry-pi-5", 2.9 / 2.4, "yolox-nano", 416, 29.2),
    ("raspberry-pi-5", 2.9 / 2.4, "yolox-tiny", 416, 45.9),
    ("raspberry-pi-5", 2.9 / 2.4, "yolox-s", 640, 111.0),
    ("raspberry-pi-4", 1.95 / 1.8, "yolov7-tiny", 640, 476.0),
    ("raspberry-pi-4", 1.95 / 1.8, "yolov8n", 640, 323.0),
    ("raspberry-pi-4", 1.95 / 1.8, "yolov6n", 640, 370.0),
    ("raspberry-pi-4", 1.95 / 1.8, "yolox-nano", 416, 143.0),
    ("raspberry-pi-4", 1.95 / 1.8, "yolox-tiny", 416, 357.0),
    ("rk3588", 1.0, "yolov7-tiny", 640, 55.9),
    ("rk3588", 1.0, "yolov8n", 640, 61.3),
    ("rk3588", 1.0, "yolov6n", 640, 48.1),
)


@dataclass(frozen=True)
class Cell:
    """One published time, and its estimate without it."""

    board: str
    threads: int
    network: str
    ms: float
    estimate: Estimate

    @property
    def error(self) -> float:
        """Of the middle, as a part of the published time."""
        return abs(self.estimate.middle_ms / self.ms - 1)

    @property
    def is_inside(self) -> bool:
        """Whether the published time is in the range."""
        return self.estimate.low_ms <= self.ms <= self.estimate.high_ms


def main() -> None:
    """Run the three checks and draw the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--export-only", action="store_true")
    args = parser.parse_args()
    for _, _, model, side, _ in DETECTORS:
        export(model, side, args.work)
    if args.export_only:
        return
    detectors = list(check_detectors(args.work))
    timed, by_layers = (list(leave_out(is_timed=is_timed)) for is_timed in (True, False))
    elsewhere, points = list(check_elsewhere(args.table)), list(leave_points_out())
    older = list(check_older(args.table))
    draw(timed)
    found = {
        "known_computer": load_known().measured_on,
        "left_out": [*summarise("timed here", timed), *summarise("by layers", by_layers)],
        "points": list(summarise("interpolated", points)),
        "older": [row for row in summarise("timed here", older) if row["board"] != "all"],
        "elsewhere": [row for row in summarise("timed here", elsewhere) if row["board"] == "all"],
        "detectors": detectors,
        "cells": [[c.board, c.threads, c.network, c.ms, round(c.estimate.middle_ms, 2)] for c in timed],
    }
    save_result(OUT, found)
    for row in [*found["left_out"], *found["points"], *found["older"], *found["elsewhere"], *detectors]:
        sys.stdout.write(f"{row}\n")


def precision_of(name: str) -> Any:
    """Of a network of the table."""
    return "int8" if name.endswith("_int8") else "fp16"


def leave_out(*, is_timed: bool) -> Iterator[Cell]:
    """Every cell of the boards that were asked for."""
    known = load_known().networks
    layers = {name: network.list_convolutions() for name, network in known.items()}
    for board, counts in ASKED.items():
        for run in (run for run in load_board(board).runs if run.threads in counts):
            for name, ms in run.ms.items():
                network = Network(layers[name], precision_of(name), known[name].ms if is_timed else None)
                yield Cell(board, run.threads, name, ms, estimate(network, board, threads=run.threads, without=name))


def leave_points_out() -> Iterator[Cell]:
    """Every published point of a GPU or NPU that leaves three others."""
    for name in list_boards():
        for point in load_board(name).points:
            others = [one for one in load_board(name).points if one.precision == point.precision]
            if len(others) > 3:
                one = Convolution((1, 1), 1, 1, 1000, 1000, round(point.gflops * 1e3 / 2))
                found = estimate(Network([one], point.precision), name, without=point.model)
                yield Cell(name, 0, f"{point.model} {point.precision}", point.ms, found)


def check_older(table: Path) -> Iterator[Cell]:
    """A run of a board that its file leaves out, for an older version of the engine made it."""
    known = load_known().networks
    for run in read_table((table / "README.md").read_text(encoding="utf-8")):
        if run.section.startswith(OLDER) and (run.settings["num_threads"], run.settings["powersave"]) == (4, 2):
            for name in run.ms.keys() & known.keys():
                network = Network(known[name].list_convolutions(), precision_of(name), known[name].ms)
                found = estimate(network, "rk3588", threads=4, without=name)
                yield Cell("rk3588", 4, name, run.ms[name], found)


def check_elsewhere(table: Path) -> Iterator[Cell]:
    """The same with all threads of the board, from times of other computers; rulers are not estimated."""
    known = load_known().networks
    layers = {name: network.list_convolutions() for name, network in known.items()}
    runs = read_table((table / "README.md").read_text(encoding="utf-8"))
    for host in (run for run in runs if run.section.startswith(ELSEWHERE)):
        if host.settings["num_threads"] != 1 or host.settings["gpu_device"] != -1:
            continue
        paces = {
            ruler: Pace(sum(one.products for one in layers[name]), known[name].ms, host.ms[name])
            for ruler, name in RULERS.items()
        }
        for board, counts in ASKED.items():
            for run in (run for run in load_board(board).runs if run.threads == counts[-1]):
                for name in host.ms.keys() & run.ms.keys():
                    if twins(name) in map(twins, RULERS.values()):
                        continue
                    known_ms, doubt = convert(host.ms[name], layers[name], paces)
                    network = Network(layers[name], precision_of(name), known_ms, doubt)
                    found = estimate(network, board, threads=run.threads, without=name)
                    yield Cell(board, run.threads, name, run.ms[name], found)


def summarise(method: str, cells: list[Cell]) -> Iterator[dict[str, Any]]:
    """Errors by board and number of threads, of one thread and of all cores, and of all."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        is_one = cell.threads == 1
        keys = [(cell.board, str(cell.threads)), ("all", "1" if is_one else "all")]
        for key in keys:
            groups.setdefault(key, []).append(cell)
    for (board, threads), members in groups.items():
        errors = [cell.error for cell in members]
        yield {
            "method": method,
            "board": board,
            "threads": threads,
            "cells": len(members),
            "median": round(float(np.median(errors)), 3),
            "p90": round(float(np.percentile(errors, 90)), 3),
            "covered": round(float(np.mean([cell.is_inside for cell in members])), 3),
            "factor": round(float(np.median([c.estimate.high_ms / c.estimate.middle_ms for c in members])), 3),
        }


def export(model: str, side: int, work: Path) -> Path:
    """A folder as of a float export, with random weights and 80 classes; kept."""
    import torch

    from edgeyolo import models
    from edgeyolo.export import export_model
    from edgeyolo.nn.fold import fold_model
    from edgeyolo.spec.coco_classes import COCO_CLASSES
    from edgeyolo.spec.model import ModelSpec

    folder = work / f"{model}-{side}"
    if not (folder / "model.json").is_file():
        torch.manual_seed(0)
        network = models.create(model, 80)
        spec = ModelSpec(
            name=model,
            activation=network.config.activation,
            class_names=COCO_CLASSES,
            input=network.make_input_spec((side, side)),
            decode=network.decode,
        )
        export_model(fold_model(network.eval()), spec, folder)
    return folder


def check_detectors(work: Path) -> Iterator[dict[str, Any]]:
    """What others published of detectors; where their board was overclocked, by that much slower."""
    from edgeyolo import verbs

    for (model, side), rows in itertools.groupby(sorted(DETECTORS, key=lambda row: row[2:4]), key=lambda row: row[2:4]):
        listed = list(rows)
        boards = tuple(row[0] for row in listed)
        found = verbs.estimate(work / f"{model}-{side}", EstimateOptions(board=boards))
        by_board = {one.board: one for one in found.estimates}
        for board, clock, _, _, ms in listed:
            one = by_board[board]
            yield {
                "board": board,
                "model": model,
                "side": side,
                "published_ms": ms,
                "clock": round(clock, 3),
                "stock_ms": round(ms * clock, 1),
                "low_ms": round(one.low_ms, 1),
                "middle_ms": round(one.middle_ms, 1),
                "high_ms": round(one.high_ms, 1),
                "here_ms": round(found.here.here_ms, 2) if found.here else None,
                "source": QENGINEERING,
            }


def draw(cells: Iterable[Cell]) -> None:
    """Predicted against measured, with the ranges, all cores of each board."""
    from edgeyolo.report.figures import encode_png, make_figure, tidy_axes

    figure = make_figure(9.0, 6.0)
    for axes, board in zip(figure.subplots(2, 3).flat, ASKED, strict=True):
        own = [cell for cell in cells if cell.board == board and cell.threads == ASKED[board][-1]]
        ends = (min(cell.ms for cell in own) / 1.5, max(cell.ms for cell in own) * 1.5)
        axes.plot(ends, ends, color="#9aa4ae", lw=1)
        for is_int8, colour, label in ((False, "#3b7dd8", "float"), (True, "#d8823b", "int8")):
            some = [cell for cell in own if cell.network.endswith("_int8") == is_int8]
            lows, middles, highs = ([getattr(c.estimate, f"{n}_ms") for c in some] for n in ("low", "middle", "high"))
            measured = [cell.ms for cell in some]
            axes.vlines(measured, lows, highs, color=colour, lw=1, alpha=0.4)
            axes.scatter(measured, middles, color=colour, s=10, label=label, zorder=3)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.set_title(f"{board}, {ASKED[board][-1]} threads", fontsize=9, loc="left")
        tidy_axes(axes)
    figure.axes[0].legend(fontsize=8)
    figure.supxlabel("measured by its users, ms", fontsize=9)
    figure.supylabel("estimated without it, ms", fontsize=9)
    write_file(PICTURE, encode_png(figure))


if __name__ == "__main__":
    main()
