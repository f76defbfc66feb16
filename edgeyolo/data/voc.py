"""Pascal VOC: JPEGImages, Annotations (one XML per picture) and ImageSets/Main (one list of names per split).

VOC coordinates are 1-based and name the last pixel inside: xyxy = (xmin - 1, ymin - 1, xmax, ymax). Some tools write
0-based edges in the same layout; a file in which an xmin or ymin is 0 cannot be 1-based and is taken as it is. A box
with xmax <= xmin or ymax <= ymin counts as degenerate, although by the letter of VOC equal values are one pixel.

VOC has no list of classes. `classes.txt` or `labels.txt` in the folder gives them, one a line in the order of their
ids; otherwise they are all names in Annotations, sorted, so that every split has the same ids. Objects marked
`difficult` are ignored, as in VOC's own evaluation.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from edgeyolo.data.assembly import SPLIT_ALIASES, RawPictures, assemble, in_parts, without_repeats
from edgeyolo.data.columns import Texts
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import SUFFIXES, read_image_hw
from edgeyolo.data.report import ProblemLog
from edgeyolo.spec.errors import DataError, ImageError

LOOKS_LIKE = "VOC: a folder with JPEGImages and Annotations"

_CLASS_FILES = ("classes.txt", "labels.txt")
_WHOLE = "all"
_LEAST_ABSURD = 1 << 31  # side in pixels


def is_recognised(path: Path) -> bool:
    """A folder that holds JPEGImages and Annotations with XML files."""
    return (path / "JPEGImages").is_dir() and next((path / "Annotations").glob("*.xml"), None) is not None


def list_splits(path: Path) -> list[str]:
    """The lists in ImageSets/Main, but not those of single classes; "all" where there are none."""
    return list(_split_files(path)) or [_WHOLE]


def read_split(path: Path, split: str) -> Dataset:
    """Read one split.

    Raises:
        DataError: its list cannot be read or is empty, or there are no class names.
    """
    annotations = path / "Annotations"
    files = _split_files(path)
    names = _read_lines(files[split]) if files else sorted(found.stem for found in annotations.glob("*.xml"))
    if not names:
        raise DataError(f"split '{split}' lists no pictures", where=files[split])
    class_names = _class_names(path)
    ids = {name: i for i, name in enumerate(class_names)}
    images = {
        found.stem: found for found in sorted((path / "JPEGImages").iterdir()) if found.suffix.lower() in SUFFIXES
    }
    log = ProblemLog()
    places = Texts.of(str(images.get(name, Path(name))) for name in names)
    chosen = [names[row] for row in without_repeats(places, lambda row: annotations / f"{names[row]}.xml", log)]
    for label in sorted(annotations.glob("*.xml")) if split == list_splits(path)[0] else ():
        if label.stem not in images and label.stem not in names:
            log.add("missing picture", label, "annotations of a picture that is not in JPEGImages")
    blocks = (
        _read_block([(annotations / f"{name}.xml", images.get(name)) for name in part], ids, log)
        for part in in_parts(chosen)
    )
    return assemble(path, split, class_names, blocks, log)


def _split_files(path: Path) -> dict[str, Path]:
    found = {}
    for file in sorted((path / "ImageSets" / "Main").glob("*.txt")):
        with file.open(encoding="utf-8", errors="replace") as stream:
            first = next((line for line in stream if line.strip()), "")
        if len(first.split()) <= 1:  # lists of one class have a second column, 1 or -1
            found[SPLIT_ALIASES.get(file.stem, file.stem)] = file
    order = {"train": 0, "val": 1, "test": 2}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def _read_lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text ({error})", where=path) from None


def _class_names(path: Path) -> tuple[str, ...]:
    for name in _CLASS_FILES:
        if (path / name).is_file():
            return tuple(dict.fromkeys(_read_lines(path / name)))
    names: set[str] = set()
    for file in (path / "Annotations").glob("*.xml"):
        try:
            names.update(_object_name(element) for element in _parse(file).iterfind("object"))
        except DataError:
            continue  # reported when its own picture is read
    if not names - {""}:
        raise DataError("names no class", where=path / "Annotations", hint="Its XML files have no <object>")
    return tuple(sorted(names - {""}))


class _NoDoctype(ElementTree.TreeBuilder):
    """Annotations need no DOCTYPE, and refusing one refuses every entity trick before anything is expanded."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError("has a DOCTYPE, which annotations have no use for")


def _parse(path: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        return ElementTree.fromstring(path.read_bytes(), parser)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"is not valid XML ({error})", where=path) from None


def _read_block(files: Iterable[tuple[Path, Path | None]], ids: dict[str, int], log: ProblemLog) -> RawPictures:
    block = RawPictures(is_ignored=[])
    for label_path, image_path in files:
        if image_path is None:
            log.add("missing picture", label_path, "no picture of this name in JPEGImages")
        elif not label_path.is_file():
            log.add("missing label file", label_path, f"{image_path.name} has no annotation")
        else:
            _read_picture(block, label_path, image_path, ids, log)
    return block


def _read_picture(block: RawPictures, label_path: Path, image_path: Path, ids: dict[str, int], log: ProblemLog) -> None:
    try:
        root = _parse(label_path)
        image_hw = _labelled_hw(root) or read_image_hw(image_path)
    except ImageError as error:
        log.add("unreadable picture", image_path, error.what)
        return
    except DataError as error:
        log.add("bad label", label_path, error.what)
        return
    objects = _read_objects(label_path, root, ids, log)
    boxes, class_ids = [box for box, _, _ in objects], [class_id for _, class_id, _ in objects]
    block.add_picture(str(image_path), label_path.stem, image_hw, str(label_path), boxes, class_ids)
    block.is_ignored += [is_difficult for _, _, is_difficult in objects]


def _labelled_hw(root: ElementTree.Element) -> tuple[int, int] | None:
    """Size from the annotation; None where a tool has left it out or written 0."""
    try:
        height, width = int(root.findtext("size/height", "")), int(root.findtext("size/width", ""))
    except ValueError:
        return None
    return (height, width) if 0 < height < _LEAST_ABSURD and 0 < width < _LEAST_ABSURD else None


def _read_objects(
    label_path: Path, root: ElementTree.Element, ids: dict[str, int], log: ProblemLog
) -> list[tuple[tuple[float, ...], int, bool]]:
    found = []
    for number, element in enumerate(root.iterfind("object"), 1):
        name = _object_name(element)
        try:
            x1, y1, x2, y2 = (float(element.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            log.add("bad label", label_path, f"object {number} has no box, or one that is not four numbers")
            continue
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            log.add("bad label", label_path, f"object {number} has a coordinate that is not finite")
        elif name not in ids:
            log.add("unknown class", label_path, f"object {number}: '{name}'")
        else:
            found.append(((x1, y1, x2, y2), ids[name], element.findtext("difficult", "").strip() == "1"))
    first = 0 if any(x1 == 0 or y1 == 0 for (x1, y1, _, _), _, _ in found) else 1
    # a box without area must stay one: the conversion would make it a pixel wide
    shifts = [first if x2 > x1 and y2 > y1 else 0 for (x1, y1, x2, y2), _, _ in found]
    return [
        ((x1 - shift, y1 - shift, x2, y2), class_id, is_difficult)
        for shift, ((x1, y1, x2, y2), class_id, is_difficult) in zip(shifts, found, strict=True)
    ]


def _object_name(element: ElementTree.Element) -> str:
    return element.findtext("name", "").strip()
