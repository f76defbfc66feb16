"""Network input against a formula written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from edgeyolo.geometry.network_input import bgr_from_any, make_batch, make_input
from edgeyolo.spec.errors import ImageError
from edgeyolo.spec.model import InputSpec

RNG = np.random.default_rng(3)
PLAIN = InputSpec(image_hw=(64, 96))
NORMED = InputSpec(image_hw=(64, 96), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    "spec", [PLAIN, NORMED, InputSpec(image_hw=(64, 96), colour_order="bgr", mean=(0.1, 0.2, 0.0))]
)
def test_every_pixel_of_a_picture_that_needs_no_resizing(spec: InputSpec) -> None:
    image = RNG.integers(0, 256, (64, 96, 3), np.uint8)
    found, letterbox = make_input(image, spec)
    assert found.shape == (1, 3, 64, 96) and found.dtype == np.float32 and found.flags.c_contiguous
    ordered = image[..., ::-1] if spec.colour_order == "rgb" else image
    expected = (ordered / 255.0 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), atol=2e-6)
    assert letterbox.scale == 1.0


@pytest.mark.parametrize(("alignment", "rows"), [("center", slice(8, 56)), ("top-left", slice(0, 48))])
def test_the_padding_is_grey_and_where_it_belongs(alignment: str, rows: slice) -> None:
    spec = InputSpec(image_hw=(64, 96), letterbox_value=51, letterbox_alignment=alignment)
    found, _ = make_input(np.full((96, 192, 3), 255, np.uint8), spec)
    expected = np.full((64, 96), np.float32(0.2))
    expected[rows] = 1.0
    np.testing.assert_allclose(found[0], np.broadcast_to(expected, (3, 64, 96)), atol=1e-6)


@pytest.mark.parametrize("hw", [(1, 1), (20000, 20), (20, 20000), (1, 5000), (3, 2), (720, 1280)])
def test_pictures_of_any_size(hw: tuple[int, int]) -> None:
    found, letterbox = make_input(np.full((*hw, 3), 255, np.uint8), PLAIN)
    assert found.max() == pytest.approx(1.0) and letterbox.image_hw == hw


def test_grey_and_alpha_are_converted() -> None:
    grey = RNG.integers(0, 256, (5, 7), np.uint8)
    assert (bgr_from_any(grey) == grey[..., None]).all() and bgr_from_any(grey).shape == (5, 7, 3)
    assert (bgr_from_any(grey[..., None]) == grey[..., None]).all()
    alpha = RNG.integers(0, 256, (5, 7, 4), np.uint8)
    assert (bgr_from_any(alpha) == alpha[..., :3]).all()
    strided = RNG.integers(0, 256, (10, 14, 4), np.uint8)[::-2, ::2]
    assert (bgr_from_any(strided) == strided[..., :3]).all()


def test_views_give_what_copies_give() -> None:
    view = RNG.integers(0, 256, (200, 300, 3), np.uint8)[10:150:2, ::-1]
    np.testing.assert_array_equal(make_input(view, NORMED)[0], make_input(view.copy(), NORMED)[0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "NoneType"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        ([[0]], "list"),
    ],
)
def test_what_is_no_picture(image: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        make_input(image, PLAIN)


class LikePil:
    """What a PIL picture shows of itself."""

    size = (4, 4)

    def convert(self, mode: str) -> LikePil:
        return self


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (None, "check its path"),
        ("cells.jpg", "Read the file"),
        (LikePil(), "PIL picture"),
        (np.zeros((4, 4, 3)), "image * 255"),
        (np.zeros((4, 4, 3), np.uint16), "image >> 8"),
        (np.zeros((3, 40, 40), np.uint8), "transpose(1, 2, 0)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "detect_batch"),
        (np.zeros((0, 4, 3), np.uint8), "(H, W, 3) uint8"),
    ],
)
def test_what_is_no_picture_gets_a_hint(image: object, hint: str) -> None:
    with pytest.raises(ImageError) as caught:
        make_input(image, PLAIN)
    assert hint in caught.value.hint
    assert caught.value.where == "image"


def test_the_bad_picture_of_a_batch_is_named() -> None:
    with pytest.raises(ImageError, match="picture 1 of 2"):
        make_batch([np.zeros((4, 4, 3), np.uint8), None], PLAIN)


def test_a_batch_is_its_pictures_and_memory_is_reused() -> None:
    images = [RNG.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((30, 40), (64, 96), (200, 50))]
    memory = np.full((3, 3, 64, 96), np.nan, np.float32)
    batch, letterboxes = make_batch(images, NORMED, out=memory)
    assert batch is memory
    for i, image in enumerate(images):
        alone, letterbox = make_input(image, NORMED)
        np.testing.assert_array_equal(batch[i], alone[0])
        assert letterboxes[i] == letterbox
