"""A set with little to learn from: BCCD's white cells alone, about one in each photograph, 130 to train on.

    python benchmarks/white_cells.py --data ../shared/data/bccd --out runs/white-cells

Pictures are those of BCCD's splits that show a white cell, of the training ones the first 130; they are linked, not
copied.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.etree import ElementTree

from edgeyolo.spec.atomic import write_file

TRAINING_PICTURES = 130
_WANTED = "WBC"


def main() -> None:
    """Make the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, as a VOC folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    make_white_cells(args.data, args.out)


def make_white_cells(bccd: Path, out: Path) -> Path:
    """Write the set to `out`, as a VOC folder; returns it."""
    for split, most in (("train", TRAINING_PICTURES), ("val", None), ("test", None)):
        names = (bccd / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        labels = {name: _white_cells_of(bccd / "Annotations" / f"{name}.xml") for name in names}
        chosen = [name for name in names if labels[name].find("object") is not None][:most]
        for name in chosen:
            write_file(out / "Annotations" / f"{name}.xml", ElementTree.tostring(labels[name]))
            _link(bccd / "JPEGImages" / f"{name}.jpg", out / "JPEGImages" / f"{name}.jpg")
        write_file(out / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in chosen).encode())
    return out


def _white_cells_of(path: Path) -> ElementTree.Element:
    """A picture's labels, without what is no white cell."""
    root = ElementTree.parse(path).getroot()
    for element in root.findall("object"):
        if element.findtext("name") != _WANTED:
            root.remove(element)
    return root


def _link(picture: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(picture.resolve())


if __name__ == "__main__":
    main()
