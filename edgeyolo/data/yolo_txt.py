"""YOLO: a `data.yaml` that names splits and classes, and one text file of normalised boxes per picture.

A split is a folder of pictures, a text file that lists pictures, or a list of those. The label file of a picture
stands where its last `images` folder is called `labels`, or beside the picture. A line is
`class centre_x centre_y width height`, or `class x1 y1 x2 y2 x3 y3 ...` (a polygon, of which the box is taken). A
picture without a label file, or with an empty one, has no objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from edgeyolo.data.assembly import SPLIT_ALIASES, RawRecord, assemble
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import SUFFIXES, is_file, read_image_hw
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import DataError, ImageError

LOOKS_LIKE = "YOLO: data.yaml, or a folder with one"

_INDEX_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_SPLITS = ("train", "val", "test")


def is_recognised(path: Path) -> bool:
    """A YAML file, or a folder that holds `data.yaml` or `dataset.yaml`."""
    if path.is_dir():
        return any((path / name).is_file() for name in _INDEX_NAMES)
    return path.suffix.lower() in (".yaml", ".yml")


def list_splits(path: Path) -> list[str]:
    """Those of train, val and test that the index names.

    Raises:
        DataError: the index cannot be read or understood.
    """
    return list(_Index(path).entries)


def read_split(path: Path, split: str) -> Dataset:
    """Read one split.

    Raises:
        DataError: the index is broken, or the split's folder or list is absent or has no pictures.
    """
    index = _Index(path)
    log = ProblemLog()
    image_paths = [image for entry in index.entries[split] for image in _list_images(index, entry, log)]
    if not image_paths:
        raise DataError(
            f"split '{split}' has no pictures ({', '.join(index.entries[split])})", where=index.path, hint=_FOLDER_HINT
        )
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(_size_or_error, image_paths))
    raw_records = []
    for image_path, size in zip(image_paths, sizes, strict=True):
        if isinstance(size, ImageError):
            log.add("unreadable picture", image_path, size.what)
            continue
        raw = RawRecord(image_path, _image_id(image_path, index.root), size, label_path_of(image_path))
        _read_labels(raw, index.class_names, log)
        raw_records.append(raw)
    _note_labels_without_picture(image_paths, log)
    return assemble(path, split, index.class_names, raw_records, log)


def label_path_of(image_path: Path) -> Path:
    """Where the labels of a picture stand."""
    parts = list(image_path.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


_FOLDER_HINT = "Entries are relative to the `path` of the index, or to the folder it stands in"


class _Index:
    """`data.yaml`, checked: `root`, `class_names`, and the entries of each split."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            path = next(path / name for name in _INDEX_NAMES if (path / name).is_file())
        self.path = path
        content = _load_yaml(path)
        self.class_names = _class_names(content, path)
        self.root = path.parent
        if isinstance(content.get("path"), str) and _is_there(path.parent / content["path"]):
            self.root = path.parent / content["path"]
        self.entries: dict[str, list[str]] = {}
        for key, value in content.items():
            split = SPLIT_ALIASES.get(str(key), str(key))
            entries = [value] if isinstance(value, str) else value
            if split not in _SPLITS or not entries:
                continue
            if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                raise DataError(f"'{key}' must be a path or a list of paths", where=path)
            self.entries[split] = entries
        if not self.entries:
            raise DataError("names no split", where=path, hint="Add `train:` and `val:`, folders of pictures")
        self.entries = {split: self.entries[split] for split in _SPLITS if split in self.entries}

    def find(self, entry: str) -> Path:
        """The folder or list that an entry means."""
        # exporters write `../train/images` for a folder that stands beside the index
        inside = entry.removeprefix("../")
        for candidate in (self.root / entry, self.path.parent / entry, self.root / inside):
            if _is_there(candidate):
                return candidate
        raise DataError(f"'{entry}' does not exist", where=self.path, hint=_FOLDER_HINT)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no name that the system takes
        return False


def _load_yaml(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"is not valid YAML ({' '.join(str(error).split())})", where=path) from None
    if not isinstance(content, dict):
        raise DataError("is not a YAML mapping", where=path, hint="A data.yaml has `train:`, `val:` and `names:`")
    return content


def _class_names(content: dict[Any, Any], path: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise DataError(f"class ids under 'names' must be 0 ... {len(names) - 1}", where=path)
        names = [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    if not isinstance(names, list) or not names:
        raise DataError("has no class names", where=path, hint="Add `names: [first, second, ...]`")
    if any(isinstance(name, (list, dict)) for name in names):
        raise DataError("has a class name that is a list or a mapping", where=path)
    if len({str(name) for name in names}) != len(names):
        raise DataError("has a class name more than once", where=path)
    if not isinstance(content.get("nc", 0), int | float):
        raise DataError("'nc' is not a number", where=path)
    if content.get("nc", len(names)) != len(names):
        raise DataError(f"'nc' is {content['nc']} and 'names' has {len(names)}", where=path)
    return tuple(str(name) for name in names)


def _list_images(index: _Index, entry: str, log: ProblemLog) -> Iterator[Path]:
    place = index.find(entry)
    if place.is_dir():
        yield from sorted(found for found in place.rglob("*") if found.suffix.lower() in SUFFIXES)
        return
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"is neither a folder nor a list of pictures ({error})", where=place) from None
    for line in filter(None, map(str.strip, lines)):
        found = next((root / line for root in (place.parent, index.root) if is_file(root / line)), None)
        if found is None:
            log.add("missing picture", place, line)
        else:
            yield found


def _size_or_error(image_path: Path) -> tuple[int, int] | ImageError:
    try:
        return read_image_hw(image_path)
    except ImageError as error:
        return error


def _image_id(image_path: Path, root: Path) -> str:
    return (image_path.relative_to(root) if image_path.is_relative_to(root) else image_path).as_posix()


def _read_labels(raw: RawRecord, class_names: tuple[str, ...], log: ProblemLog) -> None:
    try:
        lines = raw.label_path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return  # a picture without objects
    except (OSError, UnicodeDecodeError) as error:
        log.add("bad label", raw.label_path, f"cannot be read as text ({error})")
        return
    height, width = raw.image_hw
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            class_id, (x1, y1, x2, y2) = _parse_line(line)
        except ValueError as error:
            log.add("bad label", raw.label_path, f"line {number}: {error}")
            continue
        if 0 <= class_id < len(class_names):
            raw.add((x1 * width, y1 * height, x2 * width, y2 * height), class_id)
        else:
            log.add("unknown class", raw.label_path, f"line {number}: class {class_id} of {len(class_names)}")


def _parse_line(line: str) -> tuple[int, tuple[float, float, float, float]]:
    """Class id and normalised left, top, right, bottom."""
    values = [float(word) for word in line.split()]
    if not np.isfinite(values).all():
        raise ValueError(f"a value is not a finite number in '{line[:60]}'")
    class_id, *place = values
    if class_id != int(class_id):
        raise ValueError(f"class {class_id} is not a whole number")
    if len(place) == 4:
        x, y, w, h = place
        return int(class_id), (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    if len(place) >= 6 and len(place) % 2 == 0:
        return int(class_id), (min(place[::2]), min(place[1::2]), max(place[::2]), max(place[1::2]))
    raise ValueError(f"{len(values)} values, 5 (a box) or a polygon wanted in '{line[:60]}'")


def _note_labels_without_picture(image_paths: list[Path], log: ProblemLog) -> None:
    """Only in label folders that are apart from the pictures, where every text file is a label."""
    expected = {label_path_of(image_path) for image_path in image_paths}
    folders = {label.parent for label in expected} - {image_path.parent for image_path in image_paths}
    stems_on_disk = {label_path_of(image) for folder in {p.parent for p in image_paths} for image in folder.iterdir()}
    for folder in sorted(folders):
        for label in sorted(folder.glob("*.txt")):
            if label not in expected and label not in stems_on_disk and label.name != "classes.txt":
                log.add("missing picture", label, "labels of a picture that is not there")
