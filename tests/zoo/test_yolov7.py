"""The YOLOv7 family against published sizes, and its loss against a plain transcription of the recipe."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from edgeyolo import models
from edgeyolo.geometry.boxes import box_iou
from edgeyolo.heads import head_of
from edgeyolo.nn.fold import fold_model

# name: (training form, deploy form, GFLOPs). D6's published 806.8 GFLOPs are those of its training form.
PUBLISHED = {
    "yolov7-tiny": (6_228_762, 6_219_709, 13.8),
    "yolov7": (37_622_682, 36_905_341, 104.7),
    "yolov7x": (71_347_394, 71_311_741, 189.9),
    "yolov7-w6": (82_312_436, 70_394_300, 360.0),
    "yolov7-e6": (111_898_292, 97_202_940, 515.2),
    "yolov7-d6": (154_709_364, 133_757_052, None),
    "yolov7-e6e": (166_408_884, 151_687_420, 843.2),
}
TARGETS = torch.tensor([[0, 0, 10, 10, 60, 70], [0, 1, 40, 50, 120, 126], [1, 1, 64, 30, 100, 90.0]])


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    info = next(info for info in models.list_models() if info.name == name)
    training, deploy, gflops = PUBLISHED[name]
    assert (info.parameters_training, info.parameters_deploy) == (training, deploy)
    if gflops is not None:
        assert info.gflops == pytest.approx(gflops, rel=0.01)


def test_nano_is_small():
    info = next(info for info in models.list_models() if info.name == "yolov7-nano")
    assert 1.5e6 < info.parameters_deploy < 1.7e6


def test_outputs_start_with_few_objects():
    torch.manual_seed(0)
    model = models.create("yolov7-nano", 20)
    for output, stride in zip(model.head.outputs, model.strides, strict=True):
        bias = output.conv.bias.view(3, 25)
        expected = math.log(8 / (640 / stride) ** 2)
        assert (bias[:, 4] - expected).abs().max() < 0.2  # the rest is the convolution's own start
        assert (bias[:, 5:] - math.log(0.6 / (20 - 0.99))).abs().max() < 0.2
        assert bias[:, :4].abs().max() < 0.2


def test_module_paths_of_the_deploy_form():
    names = set(fold_model(models.create("yolov7-nano", 2)).state_dict())
    assert {"backbone.stem.0.conv.weight", "neck.spp.join.conv.bias", "head.outputs.2.weight"} <= names


def test_auxiliary_heads_of_e6e_read_one_elan_of_each_pair():
    """What the auxiliary head is given is the second of each pair, and the sum goes on to the lead head."""
    with torch.device("meta"):
        model = models.create("yolov7-e6e", 2).train()
    seen, given = [], []
    for merge in model.neck.merges:
        merge.elan.second.register_forward_hook(lambda module, args, output: seen.insert(0, output))
    model.auxiliary.register_forward_pre_hook(lambda module, args: given.extend(args[0]))
    model(torch.empty(1, 3, 128, 128, device="meta"))
    assert len(given) == 4
    assert all(a is b for a, b in zip(given[:3], seen, strict=True))


def test_tiny_learns_to_find_an_object():
    """Thirty steps on one picture: the loss of boxes falls by half, and the best box of its class is where it is."""
    torch.manual_seed(0)
    model = models.create("yolov7-nano", 2).train()
    images = torch.zeros(2, 3, 64, 64)
    images[:, :, 16:48, 20:44] = 1.0
    targets = torch.tensor([[0, 1, 20, 16, 44, 48], [1, 1, 20, 16, 44, 48.0]])
    criterion = model.make_criterion()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss = criterion(model(images), targets, (64, 64))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        losses.append(float(loss.parts["box"]))
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        maps = [level[0].numpy() for level in model(images)]
    boxes_xyxy, scores, class_ids = head_of(model.decode).decode(maps, score_threshold=0.0)
    best = int(scores.argmax())
    assert class_ids[best] == 1
    overlap = box_iou(boxes_xyxy[best][None], targets[:1, 2:].numpy()).item()
    assert overlap > 0.5


def test_onnx_of_the_deploy_form(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    torch.manual_seed(0)
    folded = fold_model(models.create("yolov7-tiny", 3))
    images = torch.rand(1, 3, 128, 128)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter calls itself deprecated
        torch.onnx.export(folded, (images,), str(path), dynamo=False, opset_version=17)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    for expected, output in zip(folded(images), outputs, strict=True):
        torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-3, atol=1e-4)
