"""Where the files of a COCO data set are: the JSON of each split, and the folder of its pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgeyolo.data.assembly import SPLIT_ALIASES
from edgeyolo.data.image_file import is_file
from edgeyolo.spec.errors import DataError

PEOPLE_PREFIX = "person_keypoints_"
_EXPORTED_NAME = "_annotations.coco.json"
_SPLIT_NAME = re.compile(r"(?:instances_|person_keypoints_)?(?P<split>train|val|valid|validation|test)(?:[-_]?\d{4})?")


def list_files(path: Path) -> dict[str, Path]:
    """The file of each split; none where `path` is not of this format."""
    if path.is_file():
        return {_split_name(path) or "all": path} if path.suffix.lower() == ".json" else {}
    files = [
        *(path / "annotations").glob("instances_*.json"),
        *(file for file in (path / "annotations").glob("*.json") if not file.name.startswith("instances_")),
        *path.glob(f"*/{_EXPORTED_NAME}"),
        *path.glob("*.json"),
    ]
    found: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (not file.name.startswith("instances_"), file.as_posix())):
        split = _split_name(file)
        if split in found and file.stem.startswith(PEOPLE_PREFIX):
            continue  # the same pictures, with fewer objects
        if split in found and file.stem != found[split].stem:
            split = file.stem.removeprefix("instances_")  # two years of one split
        if split:
            found.setdefault(split, file)
    order = {"train": 0, "val": 1, "test": 2}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def _split_name(path: Path) -> str:
    """Split that a file is named after, "" for none."""
    if path.name == _EXPORTED_NAME:
        return SPLIT_ALIASES.get(path.parent.name, path.parent.name)
    split = split_of_name(path.stem)
    if split:
        return split
    return path.stem.removeprefix("instances_") if path.stem.startswith("instances_") else ""


def split_of_name(name: str) -> str:
    """The split that a name such as "val2017" or "instances_val2017" is of, "" for none."""
    match = _SPLIT_NAME.fullmatch(name)
    return SPLIT_ALIASES.get(match["split"], match["split"]) if match else ""


def find_folder(index_path: Path, split: str, probed: Sequence[str]) -> Path:
    """The folder, of those that the layouts use, in which most of the first pictures are; raises DataError for none."""
    near, root = index_path.parent, index_path.parent.parent
    year_name = index_path.stem.removeprefix("instances_")
    names = dict.fromkeys([year_name, split, *(k for k, v in SPLIT_ALIASES.items() if v == split)])
    candidates = [near, near / "images", near / "JPEGImages", root / "images", root / "JPEGImages", root]
    for base in (near, near / "images", root, root / "images"):
        candidates += [base / name for name in names]
    candidates += [root / name / "images" for name in names]

    def hits(folder: Path) -> int:
        return sum(is_file(folder / name) for name in probed)

    best = max(candidates, key=hits)
    if not hits(best):
        raise DataError(
            f"none of its first {len(probed)} pictures is found, such as '{probed[0]}'",
            where=index_path,
            hint=f"Looked in: {', '.join(sorted({str(folder) for folder in candidates if folder.is_dir()}))}",
        )
    return best
