"""YOLO: a `data.yaml` that names splits and classes, and one text file of normalised boxes per picture.

A split is a folder of pictures, a text file that lists pictures, or a list of those. The label file of a picture
stands where its last `images` folder is called `labels`, or beside the picture. A picture without one, or with an empty
one, has no objects.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from edgeyolo.data.assembly import SPLIT_ALIASES, assemble, in_parts, without_repeats
from edgeyolo.data.columns import Texts
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import SUFFIXES, is_file, read_image_hw
from edgeyolo.data.report import ProblemLog
from edgeyolo.data.yolo_labels import Labelled, make_block, read_ahead
from edgeyolo.spec.errors import DataError, ImageError

LOOKS_LIKE = "YOLO: data.yaml, or a folder with one"

_IMAGES, _LABELS = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
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
    image_paths = Texts.of(image for entry in index.entries[split] for image in _list_images(index, entry, log))
    if not len(image_paths):
        raise DataError(
            f"split '{split}' has no pictures ({', '.join(index.entries[split])})", where=index.path, hint=_FOLDER_HINT
        )
    rows = without_repeats(image_paths, lambda row: _label_place(image_paths[row]), log)
    _note_labels_without_picture(image_paths, log)
    prefix = "" if str(index.root) == "." else f"{index.root}{os.sep}"
    read = functools.partial(_read_files, image_paths, prefix)
    blocks = (make_block(files, index.class_names, log) for files in read_ahead(read, in_parts(rows)))
    return assemble(path, split, index.class_names, blocks, log)


def label_path_of(image_path: Path) -> Path:
    """Where the labels of a picture stand."""
    return Path(_label_place(str(image_path)))


def _label_place(image_path: str) -> str:
    stem, dot, suffix = image_path.rpartition(".")
    if not dot or os.sep in suffix:
        stem = image_path
    head, found, tail = f"{os.sep}{stem}".rpartition(_IMAGES)
    return f"{head}{_LABELS}{tail}.txt"[1:] if found else f"{stem}.txt"


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


def _list_images(index: _Index, entry: str, log: ProblemLog) -> Iterator[str]:
    place = index.find(entry)
    if place.is_dir():
        yield from _pictures_below(str(place))
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
            yield str(found)


def _pictures_below(folder: str) -> Iterator[str]:
    """Files with a picture's suffix, in the order of their names, folder by folder."""
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    prefix = "" if folder == "." else folder.rstrip(os.sep) + os.sep
    for name, is_folder in found:
        if is_folder:
            yield from _pictures_below(prefix + name)
        elif "." + name.rpartition(".")[2].lower() in SUFFIXES:
            yield prefix + name


def _read_files(image_paths: Texts, prefix: str, rows: Sequence[int]) -> list[Labelled]:
    """Each picture with the text of its label file."""
    return [_read_file(image_paths[row], prefix) for row in rows]


def _read_file(image_path: str, prefix: str) -> Labelled:
    image_id, label_path = image_path.removeprefix(prefix).replace(os.sep, "/"), _label_place(image_path)
    text: bytes | OSError
    try:
        image_hw = read_image_hw(Path(image_path))
    except ImageError as error:
        return Labelled(image_path, image_id, error, label_path, b"")
    try:
        with FileIO(label_path) as stream:
            text = stream.readall()
    except FileNotFoundError:
        text = b""  # a picture without objects
    except OSError as error:
        text = error
    return Labelled(image_path, image_id, image_hw, label_path, text)


def _note_labels_without_picture(image_paths: Texts, log: ProblemLog) -> None:
    """Only in label folders that are apart from the pictures, where every text file is a label."""
    folders = {image_path.rpartition(os.sep)[0] for image_path in image_paths}
    label_folders = {_label_place(f"{folder}{os.sep}x.png").rpartition(os.sep)[0]: folder for folder in folders}
    for label_folder in sorted(set(label_folders) - folders):
        pictures = {_stem(name) for name in _names(label_folders[label_folder])}
        labels = _names(label_folder) if Path(label_folder).is_dir() else ()
        for name in sorted(name for name in labels if name.endswith(".txt") and _stem(name) not in pictures):
            if name != "classes.txt":
                log.add("missing picture", Path(label_folder, name), "labels of a picture that is not there")


def _names(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
