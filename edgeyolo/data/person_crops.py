"""A split of persons whose joints are labelled: each is cut out of its picture and is a sample of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeyolo.data.columns import Texts
from edgeyolo.data.dataset import Dataset, make_report
from edgeyolo.data.image_file import read_image
from edgeyolo.data.records import Objects, Records
from edgeyolo.data.report import ProblemLog
from edgeyolo.data.sample import Sample
from edgeyolo.geometry.crop import crop_around
from edgeyolo.spec.detections import Float32, Image, Int64
from edgeyolo.spec.errors import ImageError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class People:
    """Persons, N of them, in the pixels of their pictures.

    Attributes:
        picture: (N,) the picture of each, a number that persons of one picture share.
        picture_hw: (N, 2) its height and width.
        boxes_xyxy: (N, 4) float64.
        areas: (N,) of the person, square pixels, by which COCO judges how exact joints are.
        joints: (N, K, 3) float64: x, y and visibility; 0 is not labelled, 1 labelled and hidden, 2 seen.
    """

    picture: Int64
    picture_hw: Int64
    boxes_xyxy: Floats
    areas: Floats
    joints: Floats

    def of_rows(self, rows: Int64) -> People:
        """Some of them, in the order given."""
        return People(*(column[rows] for column in vars(self).values()))


@dataclass(frozen=True)
class PersonCrops(Dataset):
    """Persons as pictures of their own, of one size; their joints are the objects.

    A joint that is labelled is an object whose class says which, and whose box has no extent: both corners are the
    joint. `class_names` are the names of the joints.

    Attributes:
        people: by the same index as the records.
        others: crowds and persons without a labelled joint: one that is found there counts neither way.
        input_hw: of the crops.
        margin: how much larger than its box the part is that is cut out for a person.
        skeleton: pairs of joints that are drawn with a line between them.
    """

    people: People
    others: People
    input_hw: tuple[int, int]
    margin: float
    skeleton: tuple[tuple[int, int], ...]

    def __getitem__(self, index: int) -> Sample:
        """Cut out one person; errors as of `Dataset`."""
        record = self.records[index]
        crop = crop_around(self.people.boxes_xyxy[index], self.input_hw, margin=self.margin)
        return Sample(crop.cut(self.read_picture(index)), record.boxes_xyxy, record.class_ids, record.image_id)

    def read_picture(self, index: int) -> Image:
        """The whole picture of one person.

        Raises:
            ImageError: it is unreadable, or not of the size that its annotation gives.
        """
        path, image_hw = self.records[index].image_path, tuple(self.people.picture_hw[index].tolist())
        image = read_image(path)
        if image.shape[:2] != image_hw:
            raise ImageError(
                "is {1}x{0} and its annotation is for {3}x{2}".format(*image.shape[:2], *image_hw),
                where=path,
                hint="The annotation belongs to another version of the picture (resized, or turned by its EXIF tag)",
            )
        return image

    def of_rows(self, rows: Int64, split: str) -> PersonCrops:
        """See `Dataset.of_rows`."""
        records = self.records[rows]
        report = make_report(self.name, split, self.class_names, records, ProblemLog())
        return replace(self, split=split, records=records, report=report, people=self.people.of_rows(rows))


def make_records(
    people: People, image_paths: Texts, image_ids: Texts, input_hw: tuple[int, int], margin: float
) -> Records:
    """One record for each crop, with the joints that are labelled."""
    objects: list[tuple[Float32, Int64]] = []
    for box_xyxy, joints in zip(people.boxes_xyxy, people.joints, strict=True):
        labelled = np.flatnonzero(joints[:, 2] > 0)
        points_xy = crop_around(box_xyxy, input_hw, margin=margin).apply(joints[labelled, :2])
        objects.append((np.hstack([points_xy, points_xy]), labelled))
    sizes_hw = np.tile(np.array(input_hw, np.int64), (len(people.picture), 1))
    nothing = Objects.of([(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))] * len(people.picture))
    return Records(image_paths, image_ids, sizes_hw, Objects.of(objects), nothing)
