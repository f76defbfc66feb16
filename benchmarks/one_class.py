"""A set with little to learn from: one of BCCD's classes alone, one or two objects per photograph, 130 to train on.

    python benchmarks/one_class.py --data ../shared/data/bccd --out runs/white-cells [--class-name WBC]

Pictures are those of BCCD's splits that show the class, of the training ones the first 130; they are linked, not
copied. White cells (WBC) are easy; platelets (Platelets) are small, and their labels are rough.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.etree import ElementTree

from edgeyolo.spec.atomic import write_file

TRAINING_PICTURES = 130


def main() -> None:
    """Make the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, as a VOC folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--class-name", default="WBC")
    args = parser.parse_args()
    make_one_class(args.data, args.out, args.class_name)


def make_one_class(bccd: Path, out: Path, class_name: str) -> Path:
    """Write the set to `out`, as a VOC folder; returns it."""
    for split, most in (("train", TRAINING_PICTURES), ("val", None), ("test", None)):
        names = (bccd / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        labels = {name: _labels_of(bccd / "Annotations" / f"{name}.xml", class_name) for name in names}
        chosen = [name for name in names if labels[name].find("object") is not None][:most]
        for name in chosen:
            write_file(out / "Annotations" / f"{name}.xml", ElementTree.tostring(labels[name]))
            _link(bccd / "JPEGImages" / f"{name}.jpg", out / "JPEGImages" / f"{name}.jpg")
        write_file(out / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in chosen).encode())
    return out


def _labels_of(path: Path, class_name: str) -> ElementTree.Element:
    """A picture's labels, without what is of another class."""
    root = ElementTree.parse(path).getroot()
    for element in root.findall("object"):
        if element.findtext("name") != class_name:
            root.remove(element)
    return root


def _link(picture: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(picture.resolve())


if __name__ == "__main__":
    main()
