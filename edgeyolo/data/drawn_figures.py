"""A data set of drawn figures whose joints are known, in the layout of COCO keypoints, to try the whole way on.

Figures face the viewer, so that left and right can be told; arms and legs stand anywhere, sizes, colours and turns
vary, and there is clutter behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from edgeyolo.data.drawn import draw_background, photograph
from edgeyolo.spec.atomic import replacing_folder
from edgeyolo.spec.detections import Float32, Image
from edgeyolo.spec.errors import OutputError
from edgeyolo.spec.joints import COCO_JOINTS, COCO_SKELETON
from edgeyolo.spec.progress import SILENT, Progress

_MOST_FIGURES = 3
_HEIGHTS = (0.45, 0.85)  # of a figure, of the picture's height
_MOST_DEGREES = 20.0  # that a figure leans
_OVERLAP = 0.1  # of two boxes, of the smaller; more is not drawn
_HIDDEN, _SEEN = 0, 2  # visibility; a joint outside the picture has no label
_SUBPIXEL_BITS = 4
_WARM_LIGHT_BGR = np.array([0.7, 0.9, 1.1], np.float32)  # as indoors, so that colours have an order

Rng = np.random.Generator
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A person on a picture.

    Attributes:
        joints: (17, 3) x, y in pixels, and visibility.
        box_xyxy: around what is drawn of it, inside the picture.
        area: of what is drawn, square pixels.
    """

    joints: Points
    box_xyxy: tuple[float, float, float, float]
    area: float


def draw_figures(
    folder: Path,
    counts: Mapping[str, int],
    *,
    image_hw: tuple[int, int] = (240, 320),
    seed: int = 0,
    progress: Progress = SILENT,
) -> Path:
    """Draw a data set; the same arguments give the same pictures.

    Args:
        folder: absent or empty.
        counts: split -> number of its pictures.

    Returns:
        The folder.

    Raises:
        OutputError: the folder cannot be written, or holds something.
    """
    done = 0
    with replacing_folder(folder, names=()) as work:
        (work / "annotations").mkdir()
        for split_index, (split, count) in enumerate(counts.items()):
            (work / "images" / split).mkdir(parents=True)
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for i in range(count):
                image, figures = draw_figure_picture(np.random.default_rng((seed, split_index, i)), image_hw)
                name = f"{i:04d}.jpg"
                if not cv2.imwrite(str(work / "images" / split / name), image, (cv2.IMWRITE_JPEG_QUALITY, 92)):
                    raise OutputError("the picture cannot be written", where=folder, hint="Check the free space")
                images.append({"id": i, "file_name": name, "height": image_hw[0], "width": image_hw[1]})
                annotations += [_annotation(figure, i, len(annotations) + at) for at, figure in enumerate(figures)]
                done += 1
                progress.step("draw", done, sum(counts.values()))
            index = {"images": images, "annotations": annotations, "categories": [_CATEGORY]}
            (work / "annotations" / f"person_keypoints_{split}.json").write_bytes(msgspec.json.encode(index))
    return folder


def draw_figure_picture(rng: Rng, image_hw: tuple[int, int]) -> tuple[Image, list[Figure]]:
    """Draw one picture of up to three figures that hardly hide each other; the first is always there."""
    canvas = draw_background(rng, image_hw)
    figures: list[Figure] = []
    for _ in range(1 + int(rng.integers(_MOST_FIGURES))):
        height_px = rng.uniform(*_HEIGHTS) * image_hw[0]
        points = _pose(rng) * height_px
        lean = np.deg2rad(rng.uniform(-_MOST_DEGREES, _MOST_DEGREES))
        points = points @ np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]])
        points += rng.uniform((0.15 * image_hw[1], 0.35 * image_hw[0]), (0.85 * image_hw[1], 0.65 * image_hw[0]))
        mask, pieces = _shape(points, height_px, image_hw)
        ys, xs = np.nonzero(mask)
        if not len(xs):
            continue
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        if any(_overlap(box, other.box_xyxy) > _OVERLAP for other in figures):
            continue
        _paint(rng, canvas, pieces)
        is_inside = ((points >= 0) & (points < image_hw[::-1])).all(axis=1)
        visibility = np.where(is_inside, _SEEN, _HIDDEN)[:, None]
        joints = np.where(is_inside[:, None], points, 0.0)
        figures.append(Figure(np.hstack([joints, visibility]), box, float(len(xs))))
    return photograph(rng, canvas * _WARM_LIGHT_BGR), figures


def _pose(rng: Rng) -> Points:
    """(17, 2) joints of a figure one unit high, its middle at the origin; its left is on the viewer's right."""
    places: dict[str, Points] = {"nose": np.array([0.0, -0.38]) + rng.normal(0, 0.01, 2)}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        places[f"{side}_eye"] = places["nose"] + (sign * 0.03, -0.03)
        places[f"{side}_ear"] = places["nose"] + (sign * 0.065, -0.015)
        places[f"{side}_shoulder"] = np.array([sign * rng.uniform(0.1, 0.13), -0.26])
        places[f"{side}_hip"] = np.array([sign * rng.uniform(0.06, 0.09), 0.05])
        raised, bent = rng.uniform(-15, 150), rng.uniform(-10, 110)
        places[f"{side}_elbow"] = places[f"{side}_shoulder"] + 0.16 * _direction(raised, sign)
        places[f"{side}_wrist"] = places[f"{side}_elbow"] + 0.15 * _direction(raised + bent, sign)
        spread, bent = rng.uniform(-5, 40), rng.uniform(-40, 20)
        places[f"{side}_knee"] = places[f"{side}_hip"] + 0.22 * _direction(spread, sign)
        places[f"{side}_ankle"] = places[f"{side}_knee"] + 0.21 * _direction(spread + bent, sign)
    return np.array([places[name] for name in COCO_JOINTS])


def _direction(degrees: float, sign: float) -> Points:
    """Straight down for 0, outwards for 90, up for 180."""
    angle = np.deg2rad(degrees)
    return np.array([sign * np.sin(angle), np.cos(angle)])


def _shape(points: Points, height_px: float, image_hw: tuple[int, int]) -> tuple[Image, list[tuple[str, Image]]]:
    """What a figure covers, (H, W) uint8, and its pieces by their kind: limbs, body, head and face."""
    at = dict(zip(COCO_JOINTS, points, strict=True))
    pieces: list[tuple[str, Image]] = []
    width_px = max(2, round(0.05 * height_px))
    for side in ("left", "right"):
        for chain in (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist")):
            limb = np.zeros(image_hw, np.uint8)
            line = np.array([at[f"{side}_{part}"] for part in chain])
            cv2.polylines(limb, [_fixed(line)], False, 255, width_px, cv2.LINE_AA, _SUBPIXEL_BITS)
            pieces.append(("limb", limb))
    corners = [at[name] for name in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")]
    body, head, face = (np.zeros(image_hw, np.uint8) for _ in range(3))
    cv2.fillPoly(body, [_fixed(np.array(corners))], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    middle = (at["left_ear"] + at["right_ear"]) / 2
    cv2.circle(head, _fixed(middle), round(0.075 * height_px * 2**_SUBPIXEL_BITS), 255, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    for name in ("nose", "left_eye", "right_eye"):
        radius = round(max(1.0, 0.011 * height_px) * 2**_SUBPIXEL_BITS)
        cv2.circle(face, _fixed(at[name]), radius, 255, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    pieces += [("body", body), ("head", head), ("face", face)]
    covered = np.max([piece for _, piece in pieces], axis=0)
    return np.asarray(covered > 127, np.uint8), pieces


def _paint(rng: Rng, canvas: Float32, pieces: list[tuple[str, Image]]) -> None:
    """Each kind of piece in a colour that stands out from what it covers; in place."""
    colours: dict[str, Float32] = {}
    for kind, piece in pieces:
        opacity = piece[..., None].astype(np.float32) / 255
        if kind not in colours:
            under = (canvas * opacity).sum((0, 1)) / max(1.0, float(opacity.sum()))
            away = rng.uniform(70, 120, 3).astype(np.float32)
            colours[kind] = np.where(under > 128, under - away, under + away).astype(np.float32)
        canvas += opacity * (colours[kind] - canvas)


def _fixed(points: Points) -> Any:
    return np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32)


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """What two boxes share, of the smaller one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (box, other)]
    return max(0.0, width) * max(0.0, height) / min(areas)


_CATEGORY = {
    "id": 1,
    "name": "person",
    "keypoints": COCO_JOINTS,
    "skeleton": [(first + 1, second + 1) for first, second in COCO_SKELETON],
}


def _annotation(figure: Figure, image: int, number: int) -> dict[str, Any]:
    left, top, right, bottom = figure.box_xyxy
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": figure.area,
        "iscrowd": 0,
        "keypoints": [round(value, 2) for value in figure.joints.ravel().tolist()],
        "num_keypoints": int((figure.joints[:, 2] > 0).sum()),
    }
