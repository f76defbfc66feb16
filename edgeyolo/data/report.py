"""What is in a split and what is wrong with it."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

ProblemKind = Literal[
    "missing picture",
    "unreadable picture",
    "wrong picture size",
    "repeated picture",
    "missing label file",
    "bad label",
    "unknown class",
    "degenerate box",
    "box outside the picture",
    "box cut at the border",
    "duplicate box",
    "class names differ",
]
KINDS: tuple[ProblemKind, ...] = get_args(ProblemKind)
KEPT_EXAMPLES = 20

_CONSEQUENCE: dict[ProblemKind, str] = {
    "missing picture": "listed or labelled, but no such file: skipped",
    "unreadable picture": "skipped",
    "wrong picture size": "not the size its annotation gives: skipped when loaded",
    "repeated picture": "used once",
    "missing label file": "not known to be empty: picture skipped",
    "bad label": "cannot be understood: skipped",
    "unknown class": "skipped",
    "degenerate box": "no width or no height: dropped",
    "box outside the picture": "dropped",
    "box cut at the border": "clipped to the picture",
    "duplicate box": "same picture, class and place: used once",
    "class names differ": "scores of these splits cannot be compared",
}


class Problem(msgspec.Struct, frozen=True):
    """One finding.

    Attributes:
        where: file it was found in.
        what: the value or the reason.
    """

    kind: ProblemKind
    where: str
    what: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One split of a data set.

    Attributes:
        data: the folder or file that was opened.
        pictures: usable pictures, with those that have no objects.
        backgrounds: usable pictures without objects.
        boxes: usable boxes.
        ignored_boxes: crowds and objects marked difficult, neither trained on nor counted as wrong.
        classes: class name -> usable boxes, every class in the order of its id.
        problems: kind -> how often.
        examples: the first 20 of each kind.
    """

    data: str
    split: str
    pictures: int
    backgrounds: int
    boxes: int
    ignored_boxes: int
    classes: dict[str, int]
    problems: dict[ProblemKind, int]
    examples: tuple[Problem, ...]

    @property
    def is_clean(self) -> bool:
        """Nothing was found wrong."""
        return not self.problems

    def text(self, *, examples: int = 3) -> str:
        """For people, with at most `examples` findings of each kind."""
        lines = [
            f"{self.data}, split {self.split}: {self.pictures} pictures ({self.backgrounds} without objects), "
            f"{self.boxes} boxes, {len(self.classes)} classes"
        ]
        if self.ignored_boxes:
            lines.append(f"  {self.ignored_boxes} more boxes are crowds or marked difficult: ignored")
        width = max((len(name) for name in self.classes), default=0)
        lines += [f"  {name:<{width}}  {count}" for name, count in self.classes.items()]
        for kind, count in self.problems.items():
            lines.append(f"  {kind}: {count} ({_CONSEQUENCE[kind]})")
            shown = [p for p in self.examples if p.kind == kind][:examples]
            lines += [f"    {p.where}: {p.what}" for p in shown]
            if count > len(shown):
                lines.append(f"    ... and {count - len(shown)} more")
        if self.is_clean:
            lines.append("  no problems found")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()


class ProblemLog:
    """Collects findings: all are counted, the first of each kind are kept."""

    def __init__(self, report: Report | None = None) -> None:
        self._counts: dict[ProblemKind, int] = dict(report.problems) if report else {}
        self._examples: list[Problem] = list(report.examples) if report else []

    def add(self, kind: ProblemKind, where: object, what: str) -> None:
        """Count one finding."""
        count = self._counts.get(kind, 0)
        self._counts[kind] = count + 1
        if count < KEPT_EXAMPLES:
            self._examples.append(Problem(kind, str(where), what))

    @property
    def counts(self) -> dict[ProblemKind, int]:
        """Kind -> how often, in a fixed order."""
        return {kind: self._counts[kind] for kind in KINDS if kind in self._counts}

    @property
    def examples(self) -> tuple[Problem, ...]:
        """The first of each kind, in the order of `counts`."""
        return tuple(sorted(self._examples, key=lambda problem: KINDS.index(problem.kind)))
