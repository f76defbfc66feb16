"""What runs inside the emulated board: the torch-free runtime on pictures, or one artefact on ready inputs.

    evaluate_on_arm.py pictures BUNDLE LIST OUT.json [--maps N]     LIST names one picture a line
    evaluate_on_arm.py artefact FOLDER ...                          each with artefact.json and images.npy

`pictures` writes the detections that mAP is counted from, and of the first N pictures the raw maps, beside OUT.json as
OUT.npz (map_0 ... of shape (N, C, h, w)). `artefact` writes map_0.npy into each folder. Either says on the last line of
stdout what it ran on.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import msgspec
import numpy as np

from edgeyolo import backends
from edgeyolo.bundle import open_bundle
from edgeyolo.data.image_file import read_image
from edgeyolo.evaluation.tasks.detection import MAP_THRESHOLDS
from edgeyolo.geometry.network_input import make_input
from edgeyolo.runtime import Detector
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import ModelSpec


def main() -> None:
    """Do one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    pictures = commands.add_parser("pictures")
    pictures.add_argument("bundle", type=Path)
    pictures.add_argument("list", type=Path)
    pictures.add_argument("out", type=Path)
    pictures.add_argument("--maps", type=int, default=0)
    artefact = commands.add_parser("artefact")
    artefact.add_argument("folders", type=Path, nargs="+")
    args = parser.parse_args()
    if args.command == "pictures":
        paths = [Path(line) for line in args.list.read_text().splitlines()]
        args.out.write_text(json.dumps(detect_all(args.bundle, paths)))
        if args.maps:
            maps = raw_maps(args.bundle, paths[: args.maps])
            np.savez(args.out.with_suffix(".npz"), **{f"map_{i}": map_ for i, map_ in enumerate(maps)})
    else:
        for folder in args.folders:
            run_artefact(folder)
    modules = {name for name in sys.modules if "." not in name}
    said = {"machine": platform.machine(), "python": platform.python_version(), "torch": "torch" in modules}
    sys.stdout.write(json.dumps(said) + "\n")


def detect_all(bundle: Path, paths: list[Path]) -> list[dict[str, list[object]]]:
    """Boxes, scores and class ids of every picture, with the thresholds that mAP is measured with."""
    with Detector.load(bundle, threads=1, **msgspec.structs.asdict(MAP_THRESHOLDS)) as detector:
        found = [detector.detect(read_image(path)) for path in paths]
    return [
        {"boxes_xyxy": d.boxes_xyxy.tolist(), "scores": d.scores.tolist(), "class_ids": d.class_ids.tolist()}
        for d in found
    ]


def raw_maps(bundle_path: Path, paths: list[Path]) -> list[np.ndarray]:
    """One (len(paths), C, h, w) array per map of the bundle's network."""
    with open_bundle(bundle_path) as bundle:
        model = bundle.manifest.model
        session = backends.open_artefact(
            bundle.folder,
            bundle.manifest.artefact,
            model,
            threads=1,
        )
        maps = session.run(np.concatenate([make_input(read_image(path), model.input)[0] for path in paths]))
        session.close()
    return maps


def run_artefact(folder: Path) -> None:
    """images.npy through an artefact with one map."""
    artefact = msgspec.json.decode((folder / "artefact.json").read_bytes(), type=Artefact)
    images = np.load(folder / "images.npy")
    spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=ModelSpec)
    session = backends.open_artefact(folder, artefact, spec, threads=1)
    np.save(folder / "map_0.npy", session.run(images)[0])


if __name__ == "__main__":
    main()
