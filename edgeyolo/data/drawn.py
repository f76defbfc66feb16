"""A data set that is drawn: textured shapes on clutter, in YOLO layout, for trying the whole way without any download.

Hard ones span a factor of twenty in size, hide each other and leave the picture; shapes of no class stand among them,
and blur, noise and light vary. On easy ones each class has a colour of its own and nothing is hidden, so that a small
network learns them within a minute. Crowded ones hold many small whole shapes of twelve classes: what rounding costs
shows there, for boxes must fit to a part of a pixel and scores must tell shapes apart that are much alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from edgeyolo.geometry.boxes import cxcywh_from_xyxy
from edgeyolo.spec.atomic import replacing_folder
from edgeyolo.spec.detections import Float32, Image
from edgeyolo.spec.errors import OutputError
from edgeyolo.spec.progress import SILENT, Progress

CLASS_NAMES = ("disc", "square", "triangle", "star", "ring", "cross")
EASY_COLOURS_BGR = {"disc": (230, 120, 30), "square": (40, 40, 230), "star": (40, 200, 240)}

_DISTRACTORS = ("half-disc", "bar", "hook")
CROWD_NAMES = (*CLASS_NAMES, "half-disc", "hook", "frame", "arrow", "hourglass", "tee")
_SIZES_PX = (8.0, 160.0)  # at 320 pixels
_LEAST_VISIBLE = 0.4  # of an object's area; what shows less is not labelled
_LEAST_SIDE_PX = 4
_SUBPIXEL_BITS = 4
_EASY_OBJECTS = 5  # at most
_EASY_SHARES = (0.09, 0.2)  # an object's radius, of the picture's shorter side
_CROWD_OBJECTS = (12, 36)  # tried; one that would touch another is left out
_CROWD_SIZES_PX = (16.0, 64.0)  # at 320 pixels

Contours = list[Float32]
Rng = np.random.Generator
Kind = Literal["hard", "easy", "crowded"]


@dataclass(frozen=True)
class DrawnPicture:
    """One picture and what is on it.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        boxes_xyxy: (M, 4) float32 pixels, around the part of each object that shows.
        class_ids: (M,) int64, positions in `CLASS_NAMES`.
    """

    image: Image
    boxes_xyxy: Float32
    class_ids: npt.NDArray[np.int64]


def draw_dataset(
    folder: Path,
    counts: Mapping[str, int],
    *,
    image_hw: tuple[int, int] = (320, 320),
    seed: int = 0,
    kind: Kind = "hard",
    progress: Progress = SILENT,
) -> Path:
    """Draw a data set; the same arguments give the same pictures.

    Args:
        folder: absent or empty.
        counts: split -> number of its pictures.
        kind: "hard" for six classes, "easy" for three that a colour tells apart, "crowded" for twelve of small shapes.

    Returns:
        The `data.yaml` that was written.

    Raises:
        OutputError: the folder cannot be written, or holds something.
    """
    draw, class_names = _KINDS[kind]
    done = 0
    with replacing_folder(folder, names=()) as work:
        for split_index, (split, count) in enumerate(counts.items()):
            (work / "images" / split).mkdir(parents=True)
            (work / "labels" / split).mkdir(parents=True)
            for i in range(count):
                picture = draw(np.random.default_rng((seed, split_index, i)), image_hw)
                _save_picture(picture, work, split, f"{i:04d}")
                done += 1
                progress.step("draw", done, sum(counts.values()))
        names = "".join(f"  {i}: {name}\n" for i, name in enumerate(class_names))
        splits = "".join(f"{split}: images/{split}\n" for split in counts)
        (work / "data.yaml").write_text(f"path: .\n{splits}names:\n{names}", encoding="utf-8")
    return folder / "data.yaml"


def draw_picture(rng: Rng, image_hw: tuple[int, int]) -> DrawnPicture:
    """Draw one picture of `image_hw` pixels."""
    canvas = draw_background(rng, image_hw)
    owners = np.full(image_hw, -1, np.int32)  # which object shows at each pixel
    class_ids: list[int] = []
    areas_px: list[float] = []
    count = 0 if rng.random() < 0.04 else 1 + int(rng.poisson(6.0))
    for _ in range(count):
        if rng.random() < 0.2:
            contours = _place(rng, _outline(rng, str(rng.choice(_DISTRACTORS))), image_hw)
            _paint(rng, canvas, owners, contours, owner=-1)
            continue
        class_id = int(rng.integers(len(CLASS_NAMES)))
        contours = _place(rng, _outline(rng, CLASS_NAMES[class_id]), image_hw)
        _paint(rng, canvas, owners, contours, owner=len(class_ids))
        class_ids.append(class_id)
        areas_px.append(_area(contours))
    boxes_xyxy, kept = _visible_boxes(owners, areas_px)
    return DrawnPicture(photograph(rng, canvas), boxes_xyxy, np.asarray(class_ids, np.int64)[kept])


def draw_easy_picture(rng: Rng, image_hw: tuple[int, int]) -> DrawnPicture:
    """Draw one picture of whole shapes that do not touch; class ids are positions in `EASY_COLOURS_BGR`."""
    coarse = rng.random((6, 6, 3), dtype=np.float32)
    canvas = 70 + 90 * cv2.resize(coarse, image_hw[::-1], interpolation=cv2.INTER_CUBIC)
    taken = np.zeros(image_hw, bool)
    boxes: list[tuple[int, int, int, int]] = []
    class_ids: list[int] = []
    for _ in range(_EASY_OBJECTS):
        class_id = int(rng.integers(len(EASY_COLOURS_BGR)))
        name, colour_bgr = list(EASY_COLOURS_BGR.items())[class_id]
        radius_px = rng.uniform(*_EASY_SHARES) * min(image_hw)
        edge_px = radius_px + 1
        centre_xy = rng.uniform((edge_px, edge_px), (image_hw[1] - edge_px, image_hw[0] - edge_px))
        (points,) = _outline(rng, name)
        points = np.round(points @ _turn(rng.uniform(0, 2 * np.pi)) * radius_px + centre_xy).astype(np.int32)
        left, top, width, height = cv2.boundingRect(points)
        place = slice(top, top + height), slice(left, left + width)
        if taken[place].any():
            continue
        taken[place] = True
        shade = rng.uniform(0.8, 1.1)
        cv2.fillPoly(canvas, [points], [shade * value for value in colour_bgr], cv2.LINE_AA)
        boxes.append((left, top, left + width, top + height))
        class_ids.append(class_id)
    noisy = canvas + rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(4)
    image = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return DrawnPicture(image, np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(class_ids, np.int64))


def draw_crowded_picture(rng: Rng, image_hw: tuple[int, int]) -> DrawnPicture:
    """Draw one picture of many small whole shapes that do not touch; class ids are positions in `CROWD_NAMES`."""
    canvas = draw_background(rng, image_hw)
    taken = np.zeros(image_hw, bool)
    owners = np.full(image_hw, -1, np.int32)
    class_ids: list[int] = []
    for _ in range(int(rng.integers(*_CROWD_OBJECTS, endpoint=True))):
        class_id = int(rng.integers(len(CROWD_NAMES)))
        contours = _place(rng, _outline(rng, CROWD_NAMES[class_id]), image_hw, sizes_px=_CROWD_SIZES_PX)
        corners = np.concatenate(contours)
        (x1, y1), (x2, y2) = np.floor(corners.min(axis=0)).astype(int) - 1, np.ceil(corners.max(axis=0)).astype(int) + 2
        if min(x1, y1) < 0 or x2 > image_hw[1] or y2 > image_hw[0] or taken[y1:y2, x1:x2].any():
            continue
        taken[y1:y2, x1:x2] = True
        _paint(rng, canvas, owners, contours, owner=len(class_ids))
        class_ids.append(class_id)
    boxes_xyxy, kept = _visible_boxes(owners, [0.0] * len(class_ids))
    return DrawnPicture(photograph(rng, canvas), boxes_xyxy, np.asarray(class_ids, np.int64)[kept])


_KINDS: dict[Kind, tuple[Callable[[Rng, tuple[int, int]], DrawnPicture], tuple[str, ...]]] = {
    "hard": (draw_picture, CLASS_NAMES),
    "easy": (draw_easy_picture, tuple(EASY_COLOURS_BGR)),
    "crowded": (draw_crowded_picture, CROWD_NAMES),
}


def _save_picture(picture: DrawnPicture, folder: Path, split: str, name: str) -> None:
    path = folder / "images" / split / f"{name}.jpg"
    if not cv2.imwrite(str(path), picture.image, (cv2.IMWRITE_JPEG_QUALITY, 92)):
        raise OutputError("the picture cannot be written", where=path, hint="Check the free space")
    height, width = picture.image.shape[:2]
    places = cxcywh_from_xyxy(picture.boxes_xyxy.astype(np.float64)) / (width, height, width, height)
    lines = [
        f"{class_id} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n"
        for class_id, (cx, cy, w, h) in zip(picture.class_ids.tolist(), places.tolist(), strict=True)
    ]
    (folder / "labels" / split / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def _visible_boxes(owners: npt.NDArray[np.int32], areas_px: list[float]) -> tuple[Float32, npt.NDArray[np.int64]]:
    """Boxes (M, 4) around what shows of each object, and which objects show enough to be labelled."""
    boxes, kept = [], []
    for owner, area_px in enumerate(areas_px):
        ys, xs = np.nonzero(owners == owner)
        if len(xs) < _LEAST_VISIBLE * area_px or len(xs) == 0:
            continue
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        if min(box[2] - box[0], box[3] - box[1]) >= _LEAST_SIDE_PX:
            boxes.append(box)
            kept.append(owner)
    return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(kept, np.int64)


def _circle(radius: float, start: float = 0.0, turn: float = 2 * np.pi) -> Float32:
    angles = start + np.linspace(0.0, turn, 48, endpoint=turn < 2 * np.pi)
    return (radius * np.stack((np.cos(angles), np.sin(angles)), axis=1)).astype(np.float32)


def _star(rng: Rng) -> Contours:
    radii = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.36, 0.48))
    return [(_polygon(10) * radii[:, None]).astype(np.float32)]


def _polygon(corners: int) -> Float32:
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)


def _cross(rng: Rng) -> Contours:
    a = rng.uniform(0.24, 0.38)
    arm = np.asarray([(1.0, -a), (1.0, a), (a, a)])
    quarter_turn = np.asarray([(0.0, 1.0), (-1.0, 0.0)])  # of row vectors
    arms = [arm @ np.linalg.matrix_power(quarter_turn, turns) for turns in range(4)]
    return [np.concatenate(arms).astype(np.float32)]


def _bar(rng: Rng) -> Contours:
    a = rng.uniform(0.08, 0.2)
    return [np.asarray([(-1, -a), (1, -a), (1, a), (-1, a)], np.float32)]


def _hook(rng: Rng) -> Contours:
    a = rng.uniform(-0.6, -0.3)
    return [np.asarray([(-1, -1), (1, -1), (1, a), (a, a), (a, 1), (-1, 1)], np.float32)]


def _frame(rng: Rng) -> Contours:
    return [_polygon(4), _polygon(4) * np.float32(rng.uniform(0.45, 0.65))]


def _arrow(rng: Rng) -> Contours:
    a = rng.uniform(0.2, 0.3)
    return [np.asarray([(1, 0), (0, 0.9), (0, a), (-1, a), (-1, -a), (0, -a), (0, -0.9)], np.float32)]


_OUTLINES: dict[str, Callable[[Rng], Contours]] = {
    "disc": lambda rng: [_circle(1.0)],
    "square": lambda rng: [_polygon(4)],
    "triangle": lambda rng: [_polygon(3)],
    "star": _star,
    "ring": lambda rng: [_circle(1.0), _circle(rng.uniform(0.45, 0.7))],
    "cross": _cross,
    "half-disc": lambda rng: [_circle(1.0, turn=np.pi)],
    "bar": _bar,
    "hook": _hook,
    "frame": _frame,
    "arrow": _arrow,
    "tee": lambda rng: [
        np.asarray(
            [(-1, -1), (1, -1), (1, -0.5), (0.25, -0.5), (0.25, 1), (-0.25, 1), (-0.25, -0.5), (-1, -0.5)], np.float32
        )
    ],
    "hourglass": lambda rng: [
        np.asarray([(-1, -0.8), (-1, 0.8), (-0.1, 0), (1, 0.8), (1, -0.8), (0.1, 0)], np.float32)
    ],
}


def _outline(rng: Rng, kind: str) -> Contours:
    """Contours of a shape within the unit circle or square; a second contour is a hole."""
    return _OUTLINES[kind](rng)


def _place(
    rng: Rng, contours: Contours, image_hw: tuple[int, int], *, sizes_px: tuple[float, float] = _SIZES_PX
) -> Contours:
    """Turn, stretch and put a shape somewhere in the picture, its centre inside; vertices (P, 2) in pixels."""
    scale = min(image_hw) / 320.0
    share = np.sqrt(rng.random())  # of the way from least to most, in the logarithm: large ones are more frequent
    size_px = scale * sizes_px[0] * (sizes_px[1] / sizes_px[0]) ** float(share)
    angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.25)
    matrix = _turn(angle) @ np.diag((stretch, 1 / stretch)) * (size_px / 2)
    centre_xy = rng.uniform((0, 0), (image_hw[1], image_hw[0]))
    return [(points @ matrix.T + centre_xy).astype(np.float32) for points in contours]


def _turn(angle: float) -> npt.NDArray[np.float64]:
    return np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _area(contours: Contours) -> float:
    outer, *holes = (float(cv2.contourArea(points)) for points in contours)
    return outer - sum(holes)


def _paint(rng: Rng, canvas: Float32, owners: npt.NDArray[np.int32], contours: Contours, *, owner: int) -> None:
    """Fill a shape with a texture that stands out from what is under it; (H, W, 3) float32 and (H, W), in place."""
    height, width = owners.shape
    corners = np.concatenate(contours)
    x1, y1 = np.clip(np.floor(corners.min(axis=0)).astype(int) - 1, 0, (width, height))
    x2, y2 = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 2, 0, (width, height))
    if x2 - x1 < 1 or y2 - y1 < 1:
        return
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    fixed = [np.round((points - (x1, y1)) * 2**_SUBPIXEL_BITS).astype(np.int32) for points in contours]
    cv2.fillPoly(mask, fixed, (255,), cv2.LINE_AA, _SUBPIXEL_BITS)
    patch = canvas[y1:y2, x1:x2]
    texture = _make_texture(rng, mask.shape, patch.mean(axis=(0, 1)))
    opacity = mask[..., None].astype(np.float32) / 255
    patch += opacity * (texture - patch)
    owners[y1:y2, x1:x2][mask > 127] = owner


def _make_texture(rng: Rng, patch_hw: tuple[int, ...], under_bgr: Float32) -> Float32:
    """(h, w, 3) float32: plain, shaded, striped or spotted in two colours, both away from the colour under it."""
    first, second = _contrasting_colour(rng, under_bgr), _contrasting_colour(rng, under_bgr)
    ys, xs = np.mgrid[0 : patch_hw[0], 0 : patch_hw[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = xs * np.cos(angle) + ys * np.sin(angle)
    kind = rng.choice(("plain", "shaded", "striped", "spotted"))
    if kind == "plain":
        share = np.zeros(patch_hw, np.float32)
    elif kind == "shaded":
        share = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    elif kind == "striped":
        share = 0.5 + 0.5 * np.sign(np.sin(along * (2 * np.pi / rng.uniform(4, 14))))
    else:
        share = _smooth_noise(rng, patch_hw, cell_px=float(rng.uniform(3, 9)))
    return np.asarray(first + share[..., None] * (second - first), np.float32)


def _contrasting_colour(rng: Rng, under_bgr: Float32) -> Float32:
    least = rng.uniform(40, 90)
    for _ in range(20):
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        if np.abs(colour - under_bgr).mean() >= least:
            break
    return colour


def _smooth_noise(rng: Rng, image_hw: tuple[int, ...], *, cell_px: float) -> Float32:
    """(H, W) float32 in [0, 1], with features of about `cell_px`."""
    height, width = image_hw
    coarse_hw = (int(height / cell_px) + 2, int(width / cell_px) + 2)
    coarse = rng.random(coarse_hw, dtype=np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.asarray(fine, np.float32), 0.0, 1.0)


def draw_background(rng: Rng, image_hw: tuple[int, int]) -> Float32:
    """(H, W, 3) float32: two colours blended by gradient and clouds, then thin strokes."""
    height, width = image_hw
    first, second = rng.uniform(20, 235, (2, 3))
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    gradient = 0.5 + 0.5 * ((xs / width - 0.5) * np.cos(angle) + (ys / height - 0.5) * np.sin(angle))
    clouds = _smooth_noise(rng, image_hw, cell_px=float(rng.uniform(6, 60)))
    share = rng.uniform(0.3, 0.9)
    blend = (share * gradient + (1 - share) * clouds)[..., None]
    canvas = np.ascontiguousarray(first + blend * (second - first), dtype=np.float32)
    for _ in range(int(rng.integers(0, 25))):
        points = rng.uniform((0, 0), (width, height), (2, 2))
        ends = np.round(points[0] + np.asarray([(0, 0), (points[1] - points[0]) * rng.uniform(0.1, 0.6)])).astype(int)
        colour = tuple(float(c) for c in rng.uniform(0, 255, 3))
        cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), colour, int(rng.integers(1, 4)), cv2.LINE_AA)
    return canvas


def photograph(rng: Rng, canvas: Float32) -> Image:
    """Blur, light and noise of a camera; (H, W, 3) float32 -> uint8."""
    blur_px = float(rng.uniform(0.0, 1.2))
    if blur_px > 0.3:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), blur_px), np.float32)
    canvas = (canvas - 128) * rng.uniform(0.6, 1.15) + 128 + rng.uniform(-35, 35)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(1, 12))
    return np.clip(np.round(canvas + noise), 0, 255).astype(np.uint8)
