"""What a network computes, read from its .param, against products counted by hand; and rulers that run."""

from __future__ import annotations

import pytest

from edgeyolo.backends import load_engine
from edgeyolo.backends.ncnn.costs import load_costs
from edgeyolo.backends.ncnn.files import Layer, parse_param
from edgeyolo.backends.ncnn.shapes import infer_shapes
from edgeyolo.backends.ncnn.work import count_instructions, list_convolutions
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
from edgeyolo.spec.work import Convolution, count_gflops

PARAM = """7767517
6 6
Input in0 0 1 in0 0=20 1=12 2=3
Convolution a 1 1 in0 a 0=8 1=3 3=2 4=1 5=1 6=216 9=1
ConvolutionDepthWise b 1 1 a b 0=8 1=5 4=2 5=1 6=200 7=8
Convolution c 1 1 b c 0=16 1=1 5=1 6=128 8=2
DeconvolutionDepthWise d 1 1 c d 0=16 1=4 3=2 4=1 6=256 7=16
Convolution out 1 1 d out0 0=5 1=3 11=1 4=1 14=0 6=240
"""


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    return parse_param(PARAM, where="test")


def test_each_layer_is_read_with_the_places_it_is_laid_on(layers: list[Layer]) -> None:
    found = list_convolutions(layers, infer_shapes(layers, (12, 20), where="test"))
    assert found == [
        Convolution((3, 3), 2, 1, 3, 8, 6 * 10),
        Convolution((5, 5), 1, 8, 8, 8, 6 * 10),
        Convolution((1, 1), 1, 1, 8, 16, 6 * 10, is_int8=True),
        Convolution((4, 4), 1, 16, 16, 16, 6 * 10),
        Convolution((1, 3), 1, 1, 16, 5, 12 * 20),
    ]
    products = [27 * 8 * 60, 25 * 8 * 60, 8 * 16 * 60, 16 * 16 * 60, 3 * 16 * 5 * 240]
    assert [one.products for one in found] == products
    assert count_gflops(found) == pytest.approx(2 * sum(products) / 1e9)
    assert found[0].numbers == 60 * (8 + 4 * 3)


def test_instructions_are_those_of_the_table() -> None:
    """A layer that the table of the core knows, by its rates; int8 by those of int8; another by its products."""
    table = load_costs("cortex-a76")
    rates = table.convolutions["1x1"]["fp16"]
    one = Convolution((1, 1), 1, 1, 64, 32, 10_000)
    by_hand = 64 * 32 * 10_000 * rates.products + 640_000 * rates.taken + 320_000 * rates.given + 2048 * rates.weights
    assert count_instructions([one], table, "fp16") == pytest.approx(by_hand + rates.fixed)
    in_int8 = Convolution((1, 1), 1, 1, 64, 32, 10_000, is_int8=True)
    assert count_instructions([in_int8], table, "fp16") < 0.85 * count_instructions([one], table, "fp16")
    depthwise = Convolution((3, 3), 1, 64, 64, 64, 100)
    assert count_instructions([depthwise, depthwise], table, "fp16") == 2 * count_instructions(
        [depthwise], table, "fp16"
    )


def test_rulers_run_and_say_what_they_compute() -> None:
    pytest.importorskip("ncnn", reason="runs the rulers")
    rulers = load_engine("ncnn").open_rulers()
    assert set(rulers) == {"pointwise", "spatial", "depthwise", "pointwise int8", "spatial int8"}
    for name, ruler in rulers.items():
        code, mat = ruler.run()
        assert code == 0 and (mat.h * mat.w, len(ruler.convolutions)) == (ruler.convolutions[0].positions, 4)
        assert all(one.is_int8 == name.endswith("int8") for one in ruler.convolutions)


def test_an_engine_that_does_not_say_what_it_computes_refuses(tmp_path: object) -> None:
    decode = AnchorDecode(strides=(8,), anchors_wh=(((8.0, 8.0),),))
    spec = ModelSpec(name="m", activation="relu", class_names=("a",), input=InputSpec(image_hw=(8, 8)), decode=decode)
    artefact = Artefact(engine="tensorrt", engine_version="", precision="int8", files={})
    with pytest.raises(UsageError, match="an artefact of tensorrt does not say what it computes"):
        load_engine("tensorrt").list_convolutions(tmp_path, artefact, spec)  # type: ignore[arg-type]
