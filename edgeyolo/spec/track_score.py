"""How well objects were followed."""

from __future__ import annotations

import msgspec


class SequenceScore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of one sequence or of several together; shares in percent (0-100, MOTA may be below), 0 where undefined.

    Attributes:
        frames, boxes, objects: of the ground truth that counts.
        hota, det_a, ass_a: HOTA, its part for detection and its part for association, means over overlaps from 0.05 to
            0.95.
        mota, idf1: at an overlap of 0.5.
        id_switches, misses, false_positives: what MOTA is made of.
    """

    frames: int
    boxes: int
    objects: int
    hota: float
    det_a: float
    ass_a: float
    mota: float
    idf1: float
    id_switches: int
    misses: int
    false_positives: int


class TrackScore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of what was found in all sequences of a data set.

    Attributes:
        artefact: what found the objects, such as "ncnn int8"; "files" for tracks that were read from files.
        method: who followed them; "files" too.
        data: name of the data set folder.
        overall: of all sequences together, whose boxes are counted together.
        per_sequence: by name.
    """

    artefact: str
    method: str
    data: str
    overall: SequenceScore
    per_sequence: dict[str, SequenceScore]
