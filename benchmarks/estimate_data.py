"""What `edgeyolo estimate` rests on: boards that users of ncnn measured, and the same networks on this computer.

    python benchmarks/estimate_data.py ../shared/data/ncnn_benchmark [--boards-only] [--again]

The folder holds ncnn's benchmark/: its README.md is the table, models/ are the structures. Writes one file per board
and `networks.json` into edgeyolo/latency. Needs a minute of an otherwise idle computer; what else it has to do makes
times longer and never shorter, so the least of several passes is kept (`--again`).
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from record import ROOT

from edgeyolo.backends import load_engine
from edgeyolo.backends.ncnn.files import Layer, parse_param
from edgeyolo.backends.ncnn.work import list_convolutions
from edgeyolo.latency.here import play
from edgeyolo.latency.networks import Known, KnownNetworks, as_row
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.machine import processor_name
from edgeyolo.spec.strict import load_json
from edgeyolo.spec.work import Convolution

LATENCY = ROOT / "edgeyolo" / "latency"
COMMIT = "a4d2ea1d4422c9e849f166fd7a4aefb52f942f6a"
SOURCE = f"github.com/Tencent/ncnn at {COMMIT[:10]}, benchmark/README.md: what its users measured"
LICENCE = "BSD-3-Clause, Copyright (C) 2017 Tencent"
WITHOUT = ("vision_transformer",)  # has no convolutions to speak of
SIDES = {  # of the square pictures, as benchmark/benchncnn.cpp gives them; 224 for the others
    "squeezenet": 227,
    "alexnet": 227,
    "squeezenet_ssd": 300,
    "mobilenet_ssd": 300,
    "blazeface": 128,
    "mobilenet_yolo": 416,
    "mobilenetv2_yolov3": 352,
    "yolov4-tiny": 416,
    "nanodet_m": 320,
    "yolo-fastest-1.1": 320,
    "yolo-fastestv2": 352,
    "FastestDet": 352,
}


@dataclass(frozen=True)
class Wanted:
    """A board of the table.

    Attributes:
        sections: beginnings of headings of the table, of boards of this kind.
        threads: runs with so many; all if empty.
        powersave: runs on these cores: 0 all, 1 the little ones, 2 the big ones.
    """

    title: str
    sections: tuple[str, ...]
    core: str
    floats: str = "fp32"
    target: str = ""
    threads: tuple[int, ...] = ()
    powersave: tuple[int, ...] = (0,)


BOARDS = {
    "raspberry-pi-3": Wanted(
        "Raspberry Pi 3 B+ (4 x Cortex-A53, 1.4 GHz)",
        ("Raspberry Pi 3",),
        "cortex-a53",
        target="raspberry-pi-3",
    ),
    "raspberry-pi-zero-2-w": Wanted(
        "Raspberry Pi Zero 2 W (4 x Cortex-A53, 1.0 GHz)",
        ("Raspberry Pi Zero 2 W",),
        "cortex-a53",
        target="raspberry-pi-3",
    ),
    "raspberry-pi-4": Wanted(
        "Raspberry Pi 4 (4 x Cortex-A72, 1.8 GHz)",
        ("Raspberry Pi 4",),
        "cortex-a72",
        target="raspberry-pi-4",
    ),
    "raspberry-pi-5": Wanted(
        "Raspberry Pi 5 (4 x Cortex-A76, 2.4 GHz)",
        ("Raspberry Pi 5 Broadcom BCM2712, Cortex-A76",),
        "cortex-a76",
        "fp16",
        target="raspberry-pi-5",
    ),
    # Not the section "Rockchip RK3588 (Cortex-A76": an older ncnn on Android, half as fast as the others.
    "rk3588": Wanted(
        "RK3588 boards by CPU (4 x Cortex-A76, 2.4 GHz)",
        ("OrangePi5,", "OrangePi5 Plus", "Rockchip RK3588 (Quad", "Station-M3"),
        "cortex-a76",
        "fp16",
        target="rk3588",
        threads=(1, 4),
        powersave=(0, 2),
    ),
    "jetson-orin-nano-cpu": Wanted(
        "Jetson Orin Nano by CPU (6 x Cortex-A78AE)",
        ("NVIDIA Jetson Orin Nano",),
        "cortex-a76",
        "fp16",
        target="jetson-cpu",
    ),
    "jetson-agx-orin-cpu": Wanted(
        "Jetson AGX Orin by CPU (12 x Cortex-A78AE, 2.2 GHz)",
        ("NVIDIA Jetson AGX Orin",),
        "cortex-a76",
        "fp16",
        target="jetson-cpu",
    ),
    "jetson-agx-xavier-cpu": Wanted(
        "Jetson AGX Xavier by CPU (8 x Carmel, 2.2 GHz)",
        ("NVIDIA Jetson AGX Xavier",),
        "cortex-a76",
        "fp16",
        target="jetson-cpu",
    ),
    "jetson-tx2-nx-cpu": Wanted(
        "Jetson TX2 NX by CPU (2 x Denver 2 and 4 x Cortex-A57, 2.0 GHz)",
        ("NVIDIA Jetson TX2 NX",),
        "cortex-a72",
        target="jetson-cpu",
    ),
    "jetson-nano-cpu": Wanted(
        "Jetson Nano by CPU (4 x Cortex-A57, 1.43 GHz)",
        ("NVIDIA Jetson Nano",),
        "cortex-a72",
        target="jetson-cpu",
    ),
    "rk3566": Wanted(
        "RK3566 boards by CPU (4 x Cortex-A55, 1.8 GHz)",
        ("OrangePicm4", "Station-M2"),
        "cortex-a76",
        "fp16",
    ),
    "rk3568": Wanted(
        "RK3568 boards by CPU (4 x Cortex-A55, 2.0 GHz)",
        ("Station P2", "Rock3A"),
        "cortex-a76",
        "fp16",
    ),
    "rk3399": Wanted(
        "RK3399 boards by CPU (2 x Cortex-A72, 1.8 GHz)",
        ("Rockchip RK3399", "OrangePi4 LTS"),
        "cortex-a72",
        powersave=(2,),
    ),
    "khadas-vim3": Wanted(
        "Khadas VIM3 (4 x Cortex-A73, 2.2 GHz)",
        ("Khadas VIM3",),
        "cortex-a72",
        powersave=(2,),
    ),
    "orange-pi-zero-2": Wanted(
        "Orange Pi Zero 2 (4 x Cortex-A53, 1.5 GHz)",
        ("OrangePi Zero 2",),
        "cortex-a53",
    ),
    "rdk-x3": Wanted("RDK X3 by CPU (4 x Cortex-A53, 1.5 GHz)", ("RDK X3",), "cortex-a53"),
    "arduino-uno-q": Wanted("Arduino UNO Q (4 x Cortex-A53, 2.0 GHz)", ("Arduino UNO Q",), "cortex-a53"),
    "radxa-zero-3w": Wanted(
        "Radxa Zero 3W (4 x Cortex-A55, 1.4 GHz)",
        ("Radxa Zero 3W",),
        "cortex-a76",
        "fp16",
    ),
}


@dataclass
class Measured:
    """One run of benchncnn in the table."""

    section: str
    settings: dict[str, int] = field(default_factory=dict)
    ms: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Write the boards, then the networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--boards-only", action="store_true", help="leave networks.json, which is measured, as it is")
    parser.add_argument("--again", action="store_true", help="keep of each network the lesser of old and new time")
    args = parser.parse_args()
    runs = read_table((args.folder / "README.md").read_text(encoding="utf-8"))
    for name, wanted in BOARDS.items():
        chosen = [run for run in runs if is_wanted(run, wanted)]
        write_file(LATENCY / "boards" / f"{name}.toml", format_board(wanted, chosen).encode())
        sys.stdout.write(f"{name}: {[(run.settings['num_threads'], len(run.ms)) for run in chosen]}\n")
    if not args.boards_only:
        found = measure_networks(args.folder / "models")
        path = LATENCY / "networks.json"
        if args.again:
            found = lesser(found, load_json(path, KnownNetworks))
        raw = msgspec.json.encode(found).replace(b'},"', b'},\n"').replace(b'"networks":{', b'"networks":{\n')
        write_file(path, raw + b"\n")


def read_table(text: str) -> list[Measured]:
    """The runs of the table, on processors and GPUs."""
    runs: list[Measured] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("### "):
            section = line[4:].strip()
        elif setting := re.match(r"\s*(loop_count|num_threads|powersave|gpu_device) = (-?\d+)", line):
            if setting[1] == "loop_count":
                runs.append(Measured(section))
            runs[-1].settings[setting[1]] = int(setting[2])
        elif (time := re.match(r"\s*(\S+)\s+min =\s*([\d.]+)\s+max =", line)) and runs and float(time[2]) > 0:
            runs[-1].ms.setdefault(time[1], float(time[2]))
    return runs


def is_wanted(run: Measured, wanted: Wanted) -> bool:
    """Whether a run is of a board, on its processor, with a number of threads that its cores have."""
    return (
        run.section.startswith(wanted.sections)
        and run.settings.get("gpu_device", -1) == -1
        and run.settings.get("powersave", 0) in wanted.powersave
        and (not wanted.threads or run.settings["num_threads"] in wanted.threads)
        and len(run.ms) >= 20
    )


def format_board(wanted: Wanted, runs: list[Measured]) -> str:
    """The file of a board."""
    lines = [f'title = "{wanted.title}"', f'target = "{wanted.target}"', 'engine = "ncnn"', f'core = "{wanted.core}"']
    lines += [f'floats = "{wanted.floats}"', f'source = "{SOURCE}"', f'licence = "{LICENCE}"']
    for run in runs:
        lines += ["", "[[runs]]", f'on = "{run.section}"', f"threads = {run.settings['num_threads']}", "", "[runs.ms]"]
        lines += [f'"{name}" = {ms:g}' for name, ms in sorted(run.ms.items()) if name not in WITHOUT]
    return "\n".join(lines) + "\n"


def measure_networks(folder: Path) -> KnownNetworks:
    """Every network of the table: its convolutions, and its time here, in turns with the rulers."""
    rulers = load_engine("ncnn").open_rulers()
    least = dict.fromkeys(rulers, float("inf"))
    networks = {}
    for path in sorted(folder.glob("*.param"), key=lambda path: path.stem.lower()):
        if path.stem in WITHOUT:
            continue
        run, convolutions = open_network(path)
        times_ms = [min(column) for column in zip(*play(run, [r.run for r in rulers.values()]), strict=True)]
        for name, ms in zip(rulers, times_ms[1:], strict=True):
            least[name] = min(least[name], ms)
        networks[path.stem] = Known(ms=round(times_ms[0], 4), convolutions=tuple(map(as_row, convolutions)))
        sys.stdout.write(f"{path.stem}: {times_ms[0]:.2f} ms, rulers {[round(ms, 3) for ms in times_ms[1:]]}\n")
    return KnownNetworks(
        source=f"github.com/Tencent/ncnn at {COMMIT[:10]}, benchmark/*.param",
        licence=LICENCE,
        measured_on=processor_name(),
        rulers={name: round(ms, 4) for name, ms in least.items()},
        networks=networks,
    )


def lesser(new: KnownNetworks, old: KnownNetworks) -> KnownNetworks:
    """The new structures with the lesser times."""
    if new.measured_on != old.measured_on:
        raise SystemExit(f"the other pass was on another computer, {old.measured_on}")
    networks = {
        name: msgspec.structs.replace(network, ms=min(network.ms, old.networks[name].ms))
        for name, network in new.networks.items()
    }
    rulers = {name: min(ms, old.rulers[name]) for name, ms in new.rulers.items()}
    return msgspec.structs.replace(new, networks=networks, rulers=rulers)


def open_network(path: Path) -> tuple[Any, list[Convolution]]:
    """What runs a network once, with weights of zero, and its convolutions."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(str(path))
    net.load_model(ncnn.DataReaderFromEmpty())
    side = SIDES.get(path.stem.removesuffix("_int8"), 224)
    pixels = np.full((3, side, side), 0.01, np.float32)
    picture = ncnn.Mat(pixels).clone()

    def run() -> None:
        extractor = net.create_extractor()
        for name in net.input_names():
            extractor.input(name, picture)
        for name in net.output_names():
            extractor.extract(name)

    layers = parse_param(without_noop(path.read_text(encoding="utf-8")), where=path)
    return run, list_convolutions(layers, find_shapes(net, layers, picture))


def without_noop(text: str) -> str:
    """A .param without the layers that compute nothing, which some files do not count."""
    magic, _, *lines = (line for line in text.splitlines() if line.strip())
    lines = [line for line in lines if not line.startswith("Noop")]
    return "\n".join([magic, f"{len(lines)} {sum(int(line.split()[3]) for line in lines)}", *lines])


def find_shapes(net: Any, layers: list[Layer], picture: Any) -> dict[str, tuple[int, ...]]:
    """Shape of each blob, by running the network: some have layers that no detector has."""
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    for name in net.input_names():
        extractor.input(name, picture)
    shapes = {}
    for blob in (blob for layer in layers for blob in layer.outputs):
        _, mat = extractor.extract(blob)
        shapes[blob] = tuple(size for size in (mat.c, mat.h, mat.w))[3 - min(mat.dims, 3) :]
    return shapes


if __name__ == "__main__":
    main()
