"""The whole way from a picture to boxes, with ONNX Runtime running a small network that finds red.

Each cell of stride 8 becomes an object of class 1, as large as the anchor, where the picture is red.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeyolo.backends import open_artefact
from edgeyolo.bundle import open_bundle, write_bundle
from edgeyolo.runtime import Detector, detector
from edgeyolo.spec.detecting import Nms
from edgeyolo.spec.errors import BackendError, BundleError, ImageError, UsageError
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
from edgeyolo.spec.transfer import Comparison, OperatingPoint, ScoreTransfer, ThresholdMap

SPEC = ModelSpec(
    name="red-finder",
    activation="relu",
    class_names=("other", "red"),
    input=InputSpec(image_hw=(64, 64)),
    decode=AnchorDecode(strides=(8,), anchors_wh=(((16.0, 8.0),),)),
)
ARTEFACT = Artefact(engine="onnxruntime", engine_version="1", precision="fp32", files={"onnx": "model.onnx"})
MANIFEST = Manifest(model=SPEC, target="host-onnx", artefact=ARTEFACT, sha256={}, threads=1)


def save_red_finder(path: Path) -> None:
    weight = np.zeros((7, 3, 8, 8), np.float32)
    weight[4, 0], weight[4, 1] = 40 / 64, -40 / 64  # objectness: mean of 40 (red - green) - 20
    bias = np.array([0, 0, 0, 0, -20, -10, 10], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "w", "b"], ["map_0"], kernel_shape=[8, 8], strides=[8, 8])],
        "red",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("map_0", TensorProto.FLOAT, ["batch", 7, 8, 8])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefact")
    save_red_finder(folder / "model.onnx")
    path = tmp_path_factory.mktemp("bundle") / "red.eyb"
    write_bundle(path, MANIFEST, folder)
    return path


def picture(hw: tuple[int, int], *red_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    image = np.full((*hw, 3), 90, np.uint8)
    for x1, y1, x2, y2 in red_xyxy:
        image[y1:y2, x1:x2] = (0, 0, 255)
    return image


def test_a_planted_object_comes_back_in_pixels_of_the_picture(bundle: Path) -> None:
    # 100 x 200 into 64 x 64: scale 0.32, 16 px above. Cell (5, 4) is input (40, 32, 48, 40), so picture
    # (125, 50, 150, 75); the anchor 16 x 8 around its centre (44, 36) is input (36, 32, 52, 40), so picture
    # (112.5, 50, 162.5, 75).
    with Detector.load(bundle) as loaded:
        assert loaded.class_names == ("other", "red")
        assert loaded.manifest is not None and loaded.manifest.target == "host-onnx"
        found = loaded.detect(picture((100, 200), (125, 50, 150, 75)))
        assert loaded.timing.network_ms > 0 and loaded.timing.pre_ms > 0 and loaded.timing.post_ms > 0
    np.testing.assert_allclose(found.boxes_xyxy, [[112.5, 50, 162.5, 75]], atol=1e-3)
    assert found.class_ids.tolist() == [1] and found.scores[0] > 0.99


def test_boxes_are_clipped_and_those_in_the_padding_are_dropped(bundle: Path, tmp_path: Path) -> None:
    with Detector.load(bundle) as loaded:
        corner = loaded.detect(picture((128, 128), (0, 0, 16, 16)))
    np.testing.assert_allclose(corner.boxes_xyxy, [[0, 0, 24, 16]], atol=1e-3)
    with Detector.load(bundle, score_threshold=0.0, iou_threshold=1.0, max_detections=1000) as loaded:
        everything = loaded.detect(picture((32, 64)))  # rows 0, 1, 6 and 7 of the 8 x 8 cells are padding
    assert len(everything) == 8 * 4
    assert (everything.boxes_xyxy >= 0).all() and (everything.boxes_xyxy <= [64, 32, 64, 32]).all()


def test_a_batch_of_different_sizes_is_its_pictures(bundle: Path) -> None:
    images = [
        picture((64, 64), (8, 8, 16, 16), (40, 40, 48, 48)),
        picture((300, 20)),
        picture((100, 200), (125, 50, 150, 75)),
    ]
    with Detector.load(bundle) as loaded:
        together = loaded.detect_batch(images)
        assert loaded.detect_batch([]) == []
        for image, found in zip(images, together, strict=True):
            alone = loaded.detect(image)
            np.testing.assert_array_equal(found.boxes_xyxy, alone.boxes_xyxy)
            np.testing.assert_array_equal(found.scores, alone.scores)
    assert [len(found) for found in together] == [2, 0, 1]


def test_limits_are_obeyed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture((64, 64), (8, 8, 16, 16), (40, 40, 48, 48))
    image[8:16, 8:16, 1] = 60  # less red, so second best
    with Detector.load(bundle, max_detections=1) as loaded:
        assert len(loaded.detect(image)) == 1
    with Detector.load(bundle, multi_label=True, score_threshold=1e-6) as loaded:
        assert sorted(set(loaded.detect(image).class_ids.tolist())) == [0, 1]
    monkeypatch.setattr(detector, "MIN_CANDIDATES", 2)
    monkeypatch.setattr(detector, "CANDIDATES_PER_DETECTION", 0)
    with Detector.load(bundle, score_threshold=0.0) as loaded:
        found = loaded.detect(image)
    np.testing.assert_allclose(found.boxes_xyxy, [[36, 40, 52, 48], [4, 8, 20, 16]], atol=1e-3)


def test_neighbours_are_told_apart_in_the_way_that_is_chosen(bundle: Path, tmp_path: Path) -> None:
    """Cells side by side: an IoU of 1/3, 0.233 by the distance of the centres; 0.8 of the score by the matrix."""
    image = picture((64, 64), (8, 8, 24, 16))
    image[8:16, 16:24, 1] = 60  # less red, so second best
    found = {}
    for nms in ("greedy", "diou", "matrix"):
        with Detector.load(bundle, iou_threshold=0.3, nms=nms) as loaded:
            found[nms] = loaded.detect(image)
    with Detector.load(bundle, iou_threshold=0.3) as loaded:
        assert loaded.detect(image).scores.tolist() == found["greedy"].scores.tolist()
    assert [len(seen) for seen in found.values()] == [1, 2, 2]
    best, second = found["diou"].scores
    np.testing.assert_allclose(found["matrix"].scores, [best, second * np.exp(-((1 / 3) ** 2) / 0.5)], rtol=1e-5)
    save_red_finder(tmp_path / "model.onnx")
    write_bundle(tmp_path / "diou.eyb", msgspec.structs.replace(MANIFEST, nms="diou"), tmp_path)
    with Detector.load(tmp_path / "diou.eyb", iou_threshold=0.3) as loaded:
        assert len(loaded.detect(image)) == 2
    with Detector.load(tmp_path / "diou.eyb", iou_threshold=0.3, nms="greedy") as loaded:
        assert len(loaded.detect(image)) == 1


def test_nothing_is_left_in_the_temporary_folder(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Raspberry Pi it is memory. Where the cache cannot be written it is used, and emptied."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Detector.load(bundle):
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("EDGEYOLO_CACHE", "/proc/none")
    loaded = Detector.load(bundle)
    assert len(list(tmp_path.iterdir())) == 1
    loaded.close()
    loaded.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BackendError, match="closed"):
        loaded.detect(picture((8, 8)))
    with pytest.raises(UsageError):
        Detector.load(bundle, score_threshold=2.0)
    assert list(tmp_path.iterdir()) == []


def test_errors_say_what_is_wrong(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        Detector.load("none.eyb")
    for options in ({"iou_threshold": -0.1}, {"max_detections": 0}, {"nms": "soft"}, {"threads": -1}):
        with pytest.raises(UsageError, match=next(iter(options))):
            Detector.load(bundle, **options)
    with Detector.load(bundle) as loaded, pytest.raises(ImageError):
        loaded.detect(None)


def test_maps_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    save_red_finder(tmp_path / "model.onnx")
    session = open_artefact(tmp_path, ARTEFACT, SPEC)
    other = ModelSpec(name="m", activation="relu", class_names=("a", "b", "c"), input=SPEC.input, decode=SPEC.decode)
    with Detector(session, other) as wrong, pytest.raises(BackendError, match=r"\(1, 8, 8, 8\)"):
        wrong.detect(picture((8, 8)))


def with_transfer(bundle: Path, folder: Path) -> Path:
    """A bundle that says that 0.2 and 0.6 of the float model are 0.1 and 0.5 of it for red, and was deployed at 0.4."""
    point = OperatingPoint(threshold=0.4, detections=0, right=0, precision=-1, recall=-1, f1=-1)
    same = Comparison(objects=0, float_model=point, untransferred=point, transferred=point)
    maps = {"red": ThresholdMap(float_scores=(0.2, 0.6), artefact_scores=(0.1, 0.5))}
    known = ScoreTransfer(
        artefact="onnxruntime int8",
        data="d",
        split="val",
        images=1,
        match="precision",
        score_threshold=0.4,
        maps=maps,
        overall=same,
    )
    with open_bundle(bundle) as opened:
        manifest = msgspec.structs.replace(opened.manifest, score_threshold=0.4, transfer=known)
        write_bundle(folder / "transfer.eyb", manifest, opened.folder)
    return folder / "transfer.eyb"


@pytest.mark.parametrize("nms", ["greedy", "matrix"])
@pytest.mark.parametrize(
    ("asked", "red"), [({}, 0.3), ({"score_threshold": 0.6}, 0.5), ({"score_threshold": 0.6, "transfer": False}, 0.6)]
)
def test_a_threshold_is_that_of_the_float_model(
    bundle: Path, tmp_path: Path, nms: Nms, asked: dict[str, Any], red: float
) -> None:
    """Redder and redder cells; the class that the bundle says nothing of keeps the number that was asked for."""
    image = picture((64, 64))
    for i in range(8):
        image[16:24, 8 * i : 8 * i + 8] = (0, 118 - 4 * i, 245)
    with Detector.load(bundle, score_threshold=0.0, iou_threshold=1, multi_label=True) as loaded:
        everything = loaded.detect(image)
    scores = np.sort(everything.scores[everything.class_ids == 1])[::-1]
    assert np.count_nonzero(scores >= red) not in (0, 8 * 8)
    with Detector.load(with_transfer(bundle, tmp_path), iou_threshold=1, nms=nms, **asked) as loaded:
        found = loaded.detect(image)
        assert loaded._least_scores.tolist() == pytest.approx([asked.get("score_threshold", 0.4), red])
    if nms == "greedy":
        assert len(found) == np.count_nonzero(scores >= np.float32(red))
    assert len(found) and found.scores.min() >= np.float32(red)
