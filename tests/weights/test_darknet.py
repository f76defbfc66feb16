"""darknet's cfg and weights against an interpreter written in `cases/darknet_by_hand.py`, and files that are broken."""

from __future__ import annotations

import re
import resource
import struct
from pathlib import Path

import darknet_by_hand as by_hand
import msgspec
import numpy as np
import pytest
import torch

from edgeyolo import models
from edgeyolo.heads import head_of
from edgeyolo.models import DetectorNetwork
from edgeyolo.models._cfg import network_of
from edgeyolo.nn.fold import fold_model
from edgeyolo.nn.plan import find_outputs
from edgeyolo.spec.errors import CheckpointError, UsageError
from edgeyolo.spec.model import InputSpec, ModelSpec
from edgeyolo.weights.darknet_cfg import parse_cfg
from edgeyolo.weights.pretrained import OfficialWeights

SIDE = 64
CLASSES = 3


def make_files(text: str, folder: Path) -> tuple[Path, Path, np.ndarray]:
    cfg, weights = folder / "mine.cfg", folder / "mine.weights"
    cfg.write_text(text)
    return cfg, weights, by_hand.write_weights(text, weights)


def check_boxes(network: DetectorNetwork, text: str, values: np.ndarray) -> None:
    """Each box of each class, in training form in eval mode and folded, to 1e-4 of a picture's side and of a score."""
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    wanted = np.array(sorted(by_hand.boxes(text, values, images), key=lambda row: (row[5], row[4])))
    assert np.ptp(wanted[:, 4]) > 0.1
    for form in (network.double(), fold_model(network)):
        with torch.no_grad():
            maps = [raw[0].numpy().astype(np.float32) for raw in form(images.double())]
        boxes_xyxy, scores, class_ids = head_of(network.decode).decode(maps, score_threshold=0.0, multi_label=True)
        found = np.column_stack((boxes_xyxy, scores, class_ids)).astype(float)
        found = found[np.lexsort((found[:, 4], found[:, 5]))]
        np.testing.assert_allclose(found[:, 4], wanted[:, 4], atol=1e-4)
        np.testing.assert_array_equal(found[:, 5], wanted[:, 5])
        order, other = (np.lexsort(rows.round(2).T) for rows in (found[:, :4], wanted[:, :4]))
        np.testing.assert_allclose(found[order, :4], wanted[other, :4], rtol=1e-4, atol=1e-4 * SIDE)


@pytest.mark.parametrize(("name", "write"), [("yolov3-tiny", by_hand.v3_tiny), ("yolov4-tiny", by_hand.v4_tiny)])
def test_a_model_of_the_registry_has_the_boxes_of_the_interpreter(name: str, write, tmp_path: Path) -> None:
    text = write(CLASSES)
    _, weights, values = make_files(text, tmp_path)
    assert models.guess_models(weights) == [name]
    network = models.load_pretrained(name, weights)
    assert network.config.num_classes == CLASSES
    check_boxes(network, text, values)


def test_a_cfg_of_ones_own_anchors_is_a_model_of_the_registry(tmp_path: Path) -> None:
    anchors = "5,6, 7,9, 12,11, 20,22, 30,35, 50,44"
    text = by_hand.v4_tiny(2, SIDE, anchors=anchors)
    cfg, weights, values = make_files(text, tmp_path)
    found = models.load_darknet(cfg, weights)
    assert (found.network.config.name, found.structure, found.image_hw) == ("yolov4-tiny", "", (SIDE, SIDE))
    assert found.network.decode.anchors_wh[0] == ((7, 9), (12, 11), (20, 22))
    assert found.origin.licence == "NOASSERTION"
    check_boxes(found.network, text, values)


def test_a_network_of_ones_own_has_the_boxes_of_the_interpreter(tmp_path: Path) -> None:
    """v4-csp with an eighth of its channels, which no model is; its record builds it again."""
    text = by_hand.v4_csp(CLASSES, share=8)
    cfg, weights, values = make_files(text, tmp_path)
    found = models.load_darknet(cfg, weights)
    assert found.network.config.name == "mine"
    check_boxes(found.network, text, values)
    spec = ModelSpec(
        name="mine",
        activation=found.network.config.activation,
        class_names=("a", "b", "c"),
        input=InputSpec(image_hw=found.image_hw),
        decode=found.network.decode,
        structure=found.structure,
    )
    again = models.rebuild(msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec))
    assert again.config == found.network.config
    assert [(n, v.shape) for n, v in again.state_dict().items()] == [
        (n, v.shape) for n, v in found.network.state_dict().items()
    ]


@pytest.mark.parametrize(
    ("name", "write"),
    [("yolov3-tiny", by_hand.v3_tiny), ("yolov4-tiny", by_hand.v4_tiny), ("yolov4-csp", by_hand.v4_csp)],
)
def test_plans_of_ours_are_the_layers_of_the_cfg(name: str, write) -> None:
    cfg = parse_cfg(write(80), where="here")
    with torch.device("meta"):
        model = models.create(name, 80)
    assert model.layers == cfg.layers


def test_kinds_of_layers_that_no_model_here_has(tmp_path: Path) -> None:
    """SAM, reorg and a residual of two, in a network of a few layers."""
    text = by_hand.net(SIDE) + by_hand.conv(16, 3, stride=2, act="relu") + by_hand.conv(8, 1, act="mish")
    text += "[convolutional]\nfilters=8\nsize=1\nstride=1\npad=1\nactivation=logistic\n[sam]\nfrom=-2\n"
    text += by_hand.conv(8, 3, act="swish") + "[shortcut]\nfrom=-2\nactivation=leaky\n"
    text += "[reorg]\nstride=2\n[dropout]\nprobability=.5\n" + by_hand.conv(16, 3, act="leaky")
    text += by_hand.output("0,2", 4, anchors="6,7, 9,9, 11,13")
    cfg, weights, values = make_files(text, tmp_path)
    check_boxes(models.load_darknet(cfg, weights).network, text, values)


def test_a_file_of_other_classes_gives_all_but_its_outputs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, weights, _ = make_files(by_hand.v4_tiny(7), tmp_path)
    network = models.load_pretrained("yolov4-tiny", weights, num_classes=2)
    assert "outputs are made anew" in caplog.text
    again = models.load_pretrained("yolov4-tiny", weights)
    same, other = network.state_dict(), again.state_dict()
    assert {name for name in same if same[name].shape != other[name].shape} == {
        f"outputs.{level}.{leaf}" for level in (0, 1) for leaf in ("weight", "bias")
    }
    assert all(torch.equal(same[name], other[name]) for name in same if not name.startswith("outputs"))


def test_files_of_yolor_have_darknets_numbers() -> None:
    """Names and shapes of the authors' files, as they say: module N is layer N of the cfg."""
    with torch.device("meta"):
        model = models.create("yolor-p6", 80)
        names = models._published("yolor-p6").names(model.config, {}, "here")
        tensors = {names.official(ours): value for ours, value in model.state_dict().items()}
        known = {
            "module_list.1.Conv2d.weight": (64, 12, 3, 3),
            "module_list.1.BatchNorm2d.running_var": (64,),
            "module_list.2.Conv2d.weight": (128, 64, 3, 3),
            "module_list.100.Conv2d.weight": (640, 640, 1, 1),
            "module_list.202.BatchNorm2d.bias": (320,),
            "module_list.203.implicit": (1, 256, 1, 1),
            "module_list.210.implicit": (1, 255, 1, 1),
        }
        assert {name: tuple(tensors[name].shape) for name in known} == known
        assert all(name.startswith("module_list.") for name in tensors)
        compared = models.compare_models(OfficialWeights(Path("yolor_p6.pt"), tensors))
    assert [name for name, found in compared.items() if found.fits] == ["yolor-p6"]


def test_the_header_before_version_two_is_shorter(tmp_path: Path) -> None:
    text = by_hand.v3_tiny(1)
    path = tmp_path / "old.weights"
    values = by_hand.write_weights(text, path, version=1)
    first = models.load_pretrained("yolov3-tiny", path).state_dict()["backbone.conv_0.bn.bias"]
    np.testing.assert_array_equal(first.numpy(), values[:16])


SMALL = by_hand.net(SIDE) + by_hand.conv(8, 3, stride=2) + by_hand.output("0,1", 1, anchors="6,7, 9,9")
BROKEN = {
    "no network": ("filters=3\n", "line 1.*neither a section"),
    "another start": (by_hand.conv(8, 3), r"does not begin with \[net\]"),
    "unknown section": (SMALL.replace("[yolo]", "[hologram]\n[yolo]"), r"line \d+: \[hologram\] is a section"),
    "negative size": (SMALL.replace("size=3", "size=-3"), r"line \d+: size of \[convolutional\] is -3"),
    "a million filters": (SMALL.replace("filters=8", f"filters={10**9}"), "filters of .* is 1e.09"),
    "no number": (SMALL.replace("filters=8", "filters=many"), "'many', which is no number"),
    "not finite": (SMALL.replace("filters=8", "filters=nan"), "is no number"),
    "too many layers": (SMALL + "[dropout]\n" * 2001, "more than 2000 layers"),
    "too many values": (SMALL + by_hand.conv(16_000, 31) * 40, "larger than any detector"),
    "a route forwards": (SMALL.replace("[yolo]", "[route]\nlayers=2\n[yolo]"), "layer 2.*reads layer 2.*not before"),
    "a cycle": (SMALL.replace("[yolo]", "[route]\nlayers=3\n[yolo]"), "reads layer 3, which is not before it"),
    "before the first": (SMALL.replace("[yolo]", "[route]\nlayers=-9\n[yolo]"), "reads layer -9"),
    "strides apart": (SMALL + by_hand.conv(8, 3, stride=2) + by_hand.route(-1, 0), "other strides: 4, 2"),
    "channels apart": (SMALL + by_hand.conv(9, 1) + "[shortcut]\nfrom=-4\n", "numbers of channels: 9, 8"),
    "wrong filters": (SMALL.replace("filters=12", "filters=255"), "set filters=12"),
    "an activation": (SMALL.replace("leaky", "stair"), "activation stair is not known"),
    "dilated": (SMALL.replace("size=3", "size=3\ndilation=2"), r"line 12: dilation of \[convolutional\]"),
    "a mask": (SMALL.replace("mask = 0,1", "mask = 0,5"), "mask names anchors"),
    "no anchors": (SMALL.replace("anchors = 6,7, 9,9", "anchors = 6,7, 9"), "not pairs"),
    "grey": (SMALL.replace("channels=3", "channels=1"), "channels of .net. is 1"),
    "no head": (by_hand.net(SIDE) + by_hand.conv(8, 3), "has no .yolo. or .region."),
    "no convolution": (SMALL.replace("[yolo]", "[dropout]\n[upsample]\nstride=2\n[yolo]"), "no bare 1x1 convolution"),
    "two kinds": (SMALL + by_hand.route(0) + by_hand.output("0,1", 2, anchors="6,7, 9,9"), "heads of several kinds"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_cfg_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    text, message = BROKEN[case]
    path = tmp_path / "broken.cfg"
    path.write_text(text)
    (tmp_path / "any.weights").write_bytes(struct.pack("<3iQ", 0, 2, 5, 0) + bytes(400))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as error:
        models.load_darknet(path, tmp_path / "any.weights")
    assert re.search(message, str(error.value)), error.value
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


@pytest.mark.parametrize("cut", [4, 6, 40_000])
def test_weights_that_are_cut_off_are_refused(cut: int, tmp_path: Path) -> None:
    cfg, weights, _ = make_files(by_hand.v3_tiny(1), tmp_path)
    weights.write_bytes(weights.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match=r"cut off|whole number of values"):
        models.load_darknet(cfg, weights)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    cfg, weights, values = make_files(SMALL, tmp_path)
    values[10] = np.nan
    weights.write_bytes(weights.read_bytes()[:20] + values.tobytes())
    with pytest.raises(CheckpointError, match=r"not numbers in 0\.bn"):
        models.load_darknet(cfg, weights)


MIXED = [*by_hand.v4_tiny(1).splitlines(), "[reorg]", "[avgpool]", "[sam]", "[implicit_mul]", "[control_channels]"]
MIXED += [
    "from=-1",
    "from=0",
    "stride=3",
    "groups=3",
    "filters=6",
    "[silence]",
    "size=2",
    "layers=",
    "[region]",
    "softmax=1",
]


def test_any_mixture_of_lines_is_a_network_or_refused() -> None:
    """Lines lost, doubled and exchanged; what is accepted runs."""
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(300):
        lines = SMALL.splitlines()
        for _ in range(rng.integers(1, 5)):
            place = int(rng.integers(5, len(lines)))
            lines[place : place + int(rng.integers(0, 2))] = rng.choice(MIXED, rng.integers(0, 3)).tolist()
        try:
            cfg = parse_cfg("\n".join(lines), where="mixed")
            network = network_of(cfg, "", "mixed").eval()
            network.make_input_spec(cfg.image_hw)
        except (CheckpointError, UsageError):
            continue
        accepted += 1
        with torch.no_grad():
            maps = network(torch.zeros(1, 3, *cfg.image_hw))
        shapes = head_of(network.decode).map_shapes(network.config.num_classes, cfg.image_hw)
        assert [tuple(raw.shape[1:]) for raw in maps] == shapes
    assert accepted > 20


def test_layers_that_hand_on_are_seen_through() -> None:
    cfg = parse_cfg(SMALL.replace("[yolo]", "[dropout]\n[yolo]"), where="here")
    with pytest.raises(Exception, match="no bare 1x1 convolution"):
        find_outputs(cfg.layers)


def test_a_cfg_of_yolov2_has_softmax_classes_and_anchors_in_cells(tmp_path: Path) -> None:
    """Its passthrough, too: the map is the interpreter's, and the boxes are what the paper says of one of its cells."""
    text = by_hand.net(SIDE) + by_hand.conv(8, 3, stride=2) + by_hand.conv(16, 3, stride=2)
    text += by_hand.conv(16, 3) + "[maxpool]\nsize=2\nstride=2\n" + by_hand.conv(24, 3) + by_hand.route(-3)
    text += by_hand.conv(8, 1) + "[reorg]\nstride=2\n" + by_hand.route(-1, -4) + by_hand.conv(32, 3)
    text += "[convolutional]\nsize=1\nstride=1\npad=1\nfilters=16\nactivation=linear\n"
    text += "[region]\nanchors = 1.5,2, 3,1.25\nbias_match=1\nclasses=3\ncoords=4\nnum=2\nsoftmax=1\nthresh = .6\n"
    cfg, weights, values = make_files(text, tmp_path)
    found = models.load_darknet(cfg, weights)
    images = torch.rand(1, 3, SIDE, SIDE)
    ((wanted, _),) = by_hand.run(text, values, images)
    with torch.no_grad():
        (raw,) = found.network(images)
    torch.testing.assert_close(raw.double(), wanted, rtol=1e-4, atol=1e-4)
    boxes_xyxy, scores, class_ids = head_of(found.network.decode).decode([raw[0].numpy()], score_threshold=0.0)
    row, column, anchor = 5, 2, 1
    t = wanted[0, 8 * anchor : 8 * anchor + 8, row, column].numpy()
    shares = np.exp(t[5:]) / np.exp(t[5:]).sum()
    x, y = (column + 1 / (1 + np.exp(-t[0]))) * 8, (row + 1 / (1 + np.exp(-t[1]))) * 8
    w, h = np.exp(t[2:4]) * (3 * 8, 1.25 * 8)
    nearest = np.abs(boxes_xyxy - [x - w / 2, y - h / 2, x + w / 2, y + h / 2]).max(axis=1).argmin()
    np.testing.assert_allclose(boxes_xyxy[nearest], [x - w / 2, y - h / 2, x + w / 2, y + h / 2], atol=1e-2)
    assert class_ids[nearest] == shares.argmax()
    assert scores[nearest] == pytest.approx(shares.max() / (1 + np.exp(-t[4])), rel=1e-3)
    loss = found.network.make_criterion()([raw], torch.tensor([[0, 1, 5.0, 6, 30, 40]]), (SIDE, SIDE))
    assert loss.total.isfinite()
