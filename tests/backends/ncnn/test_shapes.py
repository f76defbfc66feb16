"""Rules of shapes against ncnn itself, for the layers that decode boxes inside the graph."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from edgeyolo.backends.ncnn.files import parse_param
from edgeyolo.backends.ncnn.shapes import infer_shapes
from edgeyolo.spec.errors import BackendError

ncnn = pytest.importorskip("ncnn", reason="needs ncnn")
SHAPES = {2: (6, 20), 3: (2, 3, 20), 4: (2, 5, 3, 4)}  # of 120 values, no two sides alike
KEYS = {2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}


def run(layers: list[str], folder: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape by the rules, and what ncnn gives."""
    lines = ["Input in0 0 1 in0 0=10 1=4 2=3", *layers]
    text = "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""])
    path = folder / "net.param"
    path.write_text(text)
    shapes = infer_shapes(parse_param(text, where="net"), (4, 10), where="net")
    net = ncnn.Net()
    assert net.load_param(str(path)) == 0
    (folder / "net.bin").write_bytes(b"")
    net.load_model(str(folder / "net.bin"))
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(np.arange(120, dtype=np.float32).reshape(3, 4, 10)))
    return shapes["out0"], np.array(extractor.extract("out0")[1])


@pytest.mark.parametrize("rank", SHAPES)
def test_axes_change_places_as_ncnn_does_it(rank: int, tmp_path: Path) -> None:
    sides = " ".join(f"{key}={side}" for key, side in zip(KEYS[rank], SHAPES[rank], strict=True))
    seen = set()
    for order in range(len(list(itertools.permutations(range(rank))))):
        layers = [f"Reshape r 1 1 in0 x {sides}", f"Permute p 1 1 x out0 0={order}"]
        shape, found = run(layers, tmp_path)
        assert found.shape == shape, order
        seen.add(shape)
        axes = tuple(SHAPES[rank].index(side) for side in shape)
        wanted = np.arange(120, dtype=np.float32).reshape(SHAPES[rank]).transpose(axes)
        np.testing.assert_array_equal(found, wanted)
    assert len(seen) == len(list(itertools.permutations(range(rank))))


@pytest.mark.parametrize(
    ("axes", "starts", "ends"),
    [((1, 2), (1, 1), (-233, -233)), ((0,), (2,), (3,)), ((2, 0), (3, 0), (7, 2))],
)
def test_a_crop_is_what_ncnn_cuts_out(
    axes: tuple[int, ...], starts: tuple[int, ...], ends: tuple[int, ...], tmp_path: Path
) -> None:
    keys = zip((9, 10, 11), (starts, ends, axes), strict=True)
    text = " ".join(f"-{23300 + key}={len(values)},{','.join(map(str, values))}" for key, values in keys)
    shape, found = run([f"Crop c 1 1 in0 out0 {text}"], tmp_path)
    cut = [slice(None)] * 3
    for axis, start, end in zip(axes, starts, ends, strict=True):
        cut[axis] = slice(start, None if end == -233 else end)
    wanted = np.arange(120, dtype=np.float32).reshape(3, 4, 10)[tuple(cut)]
    assert found.shape == shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "wrong",
    ["-23309=1,0 -23310=1,2 -23311=1,3", "-23309=1,2 -23310=1,2 -23311=1,0", "-23309=1,0 -23310=1,9 -23311=1,1"],
)
def test_a_crop_beyond_its_blob_is_refused(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"layer 'c' \(Crop\)"):
        run([f"Crop c 1 1 in0 out0 {wrong}"], tmp_path)
