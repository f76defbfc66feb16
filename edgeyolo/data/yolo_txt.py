"""YOLO: a `data.yaml` that names splits and classes, and one text file of normalised boxes per picture.

A split is a folder of pictures, a text file that lists pictures, or a list of those. The label file of a picture
stands where its last `images` folder is called `labels`, or beside the picture. A line is
`class centre_x centre_y width height`, or `class x1 y1 x2 y2 x3 y3 ...` (a polygon, of which the box is taken). A
picture without a label file, or with an empty one, has no objects.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml  # type: ignore[import-untyped]

from edgeyolo.data.assembly import SPLIT_ALIASES, RawPictures, assemble, in_parts, without_repeats
from edgeyolo.data.columns import Texts
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import SUFFIXES, is_file, read_image_hw
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import DataError, ImageError

LOOKS_LIKE = "YOLO: data.yaml, or a folder with one"

_IMAGES, _LABELS = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
_PLAIN = b"0123456789.-+ \t\r\n"
_THREADS = 4
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
    read = functools.partial(_read_files, image_paths)
    blocks = (_make_block(files, index, log) for files in _read_ahead(read, in_parts(rows)))
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


_Files: TypeAlias = list[tuple[str, tuple[int, int] | ImageError, bytes | OSError]]


def _read_files(image_paths: Texts, rows: Sequence[int]) -> _Files:
    """Of each picture the path, the size, and the text of its label file; or what is wrong with them."""
    files: _Files = []
    for image_path in map(image_paths.__getitem__, rows):
        try:
            image_hw: tuple[int, int] | ImageError = read_image_hw(Path(image_path))
        except ImageError as error:
            files.append((image_path, error, b""))
            continue
        try:
            with FileIO(_label_place(image_path)) as stream:
                files.append((image_path, image_hw, stream.readall()))
        except FileNotFoundError:
            files.append((image_path, image_hw, b""))  # a picture without objects
        except OSError as error:
            files.append((image_path, image_hw, error))
    return files


def _read_ahead(read: Callable[[Sequence[int]], _Files], parts: Iterable[Sequence[int]]) -> Iterator[_Files]:
    """What is read of each part, in their order; a few parts are read before they are asked for."""
    waiting: deque[Future[_Files]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in parts:
            waiting.append(pool.submit(read, part))
            if len(waiting) > _THREADS:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def _make_block(files: _Files, index: _Index, log: ProblemLog) -> RawPictures:
    block = RawPictures()
    prefix = "" if str(index.root) == "." else f"{index.root}{os.sep}"
    ids = {str(i).encode(): i for i in range(len(index.class_names))}
    centres: list[float] = []  # x, y, width, height of one box after the other
    corners: dict[int, tuple[float, ...]] = {}  # the boxes that are not in `centres`, by their place
    for image_path, image_hw, text in files:
        if isinstance(image_hw, ImageError):
            log.add("unreadable picture", image_path, image_hw.what)
            continue
        label_path = _label_place(image_path)
        plain = _plain_lines(text, ids)
        if plain is None:
            lines = list(_any_lines(text, label_path, index.class_names, log))
            corners.update(enumerate((box for _, box in lines), start=len(centres) // 4))
            plain = [class_id for class_id, _ in lines], [0.0] * 4 * len(lines)
        image_id = image_path.removeprefix(prefix).replace(os.sep, "/")
        block.add_picture(image_path, image_id, image_hw, label_path, class_ids=plain[0])
        centres += plain[1]
    xy, wh = np.hsplit(np.array(centres).reshape(-1, 4), 2)
    boxes_xyxy = np.hstack([xy - wh / 2, xy + wh / 2])
    boxes_xyxy[list(corners)] = np.array([*corners.values()]).reshape(-1, 4)
    sizes_wh = np.array(block.sizes_hw).reshape(-1, 2)[:, ::-1]
    block.boxes_xyxy = boxes_xyxy * np.tile(np.repeat(sizes_wh, block.counts, axis=0), 2)
    return block


def _plain_lines(text: bytes | OSError, ids: dict[bytes, int]) -> tuple[list[int], list[float]] | None:
    """Classes and centres, where each line is a known class and a box in plain digits, as nearly all are; else None."""
    if isinstance(text, OSError) or text.translate(None, _PLAIN):
        return None
    lines = [line.split() for line in text.splitlines()]
    if any(len(words) != 5 for words in lines):
        return None
    try:
        return [ids[words[0]] for words in lines], [float(word) for words in lines for word in words[1:]]
    except (ValueError, KeyError):
        return None


def _any_lines(
    text: bytes | OSError, label_path: str, class_names: tuple[str, ...], log: ProblemLog
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """What the lines say that can be used; the others are written to `log`."""
    try:
        if isinstance(text, OSError):
            raise text
        lines = text.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        log.add("bad label", label_path, f"cannot be read as text ({error})")
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            class_id, box_xyxy = _parse_line(line)
        except ValueError as error:
            log.add("bad label", label_path, f"line {number}: {error}")
            continue
        if 0 <= class_id < len(class_names):
            yield class_id, box_xyxy
        else:
            log.add("unknown class", label_path, f"line {number}: class {class_id} of {len(class_names)}")


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
