"""Other sizes and batches than a model was trained with: each gives what the model itself gives, or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from whole_way import WholeWay

from edgeyolo import backends, verbs
from edgeyolo.data.dataset import open_dataset
from edgeyolo.runtime import Detector
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import ModelRecord
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import load_json
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.torch_session import TorchSession

HOSTS = [host.target for host in backends.list_runnable() if host.is_host and not host.problems]


@pytest.fixture(scope="module")
def wide(whole_way: WholeWay, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantized again, for another size, which is not a square."""
    out = tmp_path_factory.mktemp("sizes") / "wide"
    options = verbs.QuantizeOptions(image_size="96x192", evaluate=False)
    verbs.quantize(whole_way.run, whole_way.data, out, recipe="int8-max", options=options)
    return out


@pytest.fixture(scope="module")
def pictures(whole_way: WholeWay) -> list[Image]:
    data = open_dataset(whole_way.data, "val")
    return [data[i].image for i in range(7)]


def test_scales_are_those_of_the_other_size(whole_way: WholeWay, wide: Path, tmp_path: Path) -> None:
    assert load_json(wide / "model.json", ModelRecord).model.input.image_hw == (96, 192)
    trained, other = (load_qparams(folder / "qparams.json").groups for folder in (whole_way.quantized, wide))
    assert trained.keys() == other.keys()
    assert [group.scale for group in trained.values()] != [group.scale for group in other.values()]
    with pytest.raises(UsageError, match=r"for 96x192 pixels, not for 128.*quantize .* --image-size 128"):
        verbs.deploy(wide, "host-onnx", tmp_path / "wide.eyb", image_size=128)


@pytest.mark.parametrize("host", HOSTS)
def test_a_bundle_for_four_pictures_finds_what_one_for_one_finds(
    host: str, wide: Path, pictures: list[Image], tmp_path: Path
) -> None:
    """Not square. Boxes in the picture's pixels; int8 may round another way where sums come in another order."""
    single = Detector.load(verbs.deploy(wide, host, tmp_path / "one.eyb", image_size="96x192").bundle)
    alone = [single.detect(picture) for picture in pictures]
    assert sum(map(len, alone)) > len(pictures)
    single.close()
    for batch in (4, "1-4"):
        made = verbs.deploy(wide, host, tmp_path / f"{batch}.eyb", batch=batch)
        assert made.manifest.model.input.batch == ((4, 4) if batch == 4 else (1, 4))
        with Detector.load(made.bundle) as detector:
            assert (detector.batch, single.batch) == (4, 1)
            for count in (7, 4, 1):
                for found, wanted in zip(detector.detect_batch(pictures[:count]), alone, strict=False):
                    assert found.class_ids.tolist() == wanted.class_ids.tolist()
                    np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=0.5)
                    np.testing.assert_allclose(found.scores, wanted.scores, atol=0.01)


def test_a_batch_is_scored_as_its_pictures_are(whole_way: WholeWay, tmp_path: Path) -> None:
    made = verbs.deploy(whole_way.quantized, "host-onnx", tmp_path / "a.eyb", batch=5)
    alone = verbs.evaluate(whole_way.bundles["host-onnx"], whole_way.data, split="val")
    assert verbs.evaluate(made.bundle, whole_way.data, split="val").ap == pytest.approx(alone.ap, abs=0.01)


def test_a_checkpoint_at_another_size(whole_way: WholeWay, pictures: list[Image], tmp_path: Path) -> None:
    made = verbs.deploy(whole_way.run, "host-onnx", tmp_path / "tall.eyb", image_size="192x128")
    assert made.manifest.model.input.image_hw == (192, 128)
    assert not made.manifest.scores  # nobody has measured it at this size
    loaded = load_checkpoint(whole_way.run)
    assert loaded.at_size(None) is loaded.at_size(128) is loaded
    spec = loaded.at_size("192x128").record.model
    with torch.inference_mode(), Detector.load(made.bundle) as shipped:
        reference = Detector(TorchSession(loaded.model), spec)
        for picture in pictures:
            found, wanted = shipped.detect(picture), reference.detect(picture)
            np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=1e-2)
    with pytest.raises(UsageError, match=r"100x128: 100 is not a positive multiple .* Nearest that works: 96x128"):
        verbs.deploy(whole_way.run, "host-onnx", tmp_path / "odd.eyb", image_size="100x128")
