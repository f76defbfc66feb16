"""Official files of the families since YOLOv5: made here under the authors' names, read by the registry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from official_files import official_tensors, write_official

from edgeyolo import models
from edgeyolo.spec.errors import CheckpointError

# Names and shapes with 80 classes, as the authors' files have them; and how many tensors there are where that is known.
KNOWN: dict[str, tuple[int | None, dict[str, tuple[int, ...]]]] = {
    "yolov8n": (
        355,
        {
            "model.0.conv.weight": (16, 3, 3, 3),
            "model.2.cv1.conv.weight": (32, 32, 1, 1),
            "model.4.m.1.cv2.bn.running_var": (32,),
            "model.9.cv2.conv.weight": (256, 512, 1, 1),
            "model.12.cv1.conv.weight": (128, 384, 1, 1),
            "model.21.m.0.cv1.conv.weight": (128, 128, 3, 3),
            "model.22.cv2.0.1.conv.weight": (64, 64, 3, 3),
            "model.22.cv2.2.2.weight": (64, 64, 1, 1),
            "model.22.cv3.1.0.conv.weight": (80, 128, 3, 3),
            "model.22.cv3.2.2.bias": (80,),
            "model.22.dfl.conv.weight": (1, 16, 1, 1),
        },
    ),
    "yolov6n": (
        None,
        {
            "backbone.stem.rbr_dense.conv.weight": (16, 3, 3, 3),
            "backbone.ERBlock_2.0.rbr_1x1.conv.weight": (32, 16, 1, 1),
            "backbone.ERBlock_3.1.conv1.rbr_identity.running_var": (64,),
            "backbone.ERBlock_4.1.block.4.rbr_dense.bn.weight": (128,),
            "backbone.ERBlock_5.2.cspsppf.cv5.block.conv.weight": (128, 512, 1, 1),
            "backbone.ERBlock_5.2.cspsppf.cv7.block.bn.bias": (256,),
            "neck.reduce_layer0.block.conv.weight": (64, 256, 1, 1),
            "neck.Bifusion1.cv2.block.conv.weight": (32, 32, 1, 1),
            "neck.Bifusion0.cv3.block.conv.weight": (64, 192, 1, 1),
            "neck.Bifusion0.downsample.block.conv.weight": (64, 64, 3, 3),
            "neck.Bifusion1.upsample.upsample_transpose.weight": (32, 32, 2, 2),
            "neck.Rep_p3.conv1.rbr_1x1.conv.weight": (32, 32, 1, 1),
            "neck.downsample1.block.conv.weight": (64, 64, 3, 3),
            "neck.Rep_n4.block.2.rbr_identity.weight": (128,),
            "detect.stems.2.block.conv.weight": (128, 128, 1, 1),
            "detect.cls_convs.0.block.conv.weight": (32, 32, 3, 3),
            "detect.cls_preds.1.bias": (80,),
            "detect.reg_preds.0.weight": (4, 32, 1, 1),
            "detect.proj_conv.weight": (1, 17, 1, 1),
        },
    ),
    "yolov6m": (
        None,
        {
            "backbone.ERBlock_2.1.m.conv1.conv2.rbr_identity.weight": (64,),
            "backbone.ERBlock_4.1.m.block.3.conv1.rbr_dense.conv.weight": (256, 256, 3, 3),
            "backbone.ERBlock_5.2.sppf.cv1.block.conv.weight": (384, 768, 1, 1),
            "neck.Rep_p4.m.block.1.alpha": (1,),
        },
    ),
    "yolov6l6": (
        None,
        {
            "backbone.stem.block.conv.weight": (64, 3, 3, 3),
            "backbone.ERBlock_3.1.m.conv1.conv1.block.conv.weight": (128, 128, 3, 3),
            "backbone.ERBlock_3.1.m.block.4.alpha": (1,),
            "backbone.ERBlock_6.1.cv3.block.conv.weight": (1024, 1024, 1, 1),
            "backbone.ERBlock_6.2.sppf.cv2.block.conv.weight": (1024, 2048, 1, 1),
            "neck.Bifusion2.cv1.block.conv.weight": (128, 256, 1, 1),
            "neck.Rep_p5.m.block.4.conv2.block.bn.weight": (256,),
            "neck.downsample0.block.conv.weight": (512, 512, 3, 3),
            "neck.Rep_n6.cv2.block.conv.weight": (512, 1024, 1, 1),
            "detect.reg_preds.3.weight": (68, 1024, 1, 1),
        },
    ),
    "yolov5n": (
        349,
        {
            "model.0.conv.weight": (16, 3, 6, 6),
            "model.4.m.1.cv2.bn.running_var": (32,),
            "model.9.cv2.conv.weight": (256, 512, 1, 1),
            "model.10.conv.weight": (128, 256, 1, 1),
            "model.13.cv2.conv.weight": (64, 256, 1, 1),
            "model.23.cv3.conv.weight": (256, 256, 1, 1),
            "model.24.m.1.weight": (255, 128, 1, 1),
            "model.24.anchors": (3, 3, 2),
        },
    ),
    "yolov5s6": (
        None,
        {
            "model.9.conv.weight": (512, 384, 3, 3),
            "model.12.conv.weight": (384, 512, 1, 1),
            "model.15.cv1.conv.weight": (192, 768, 1, 1),
            "model.30.conv.weight": (384, 384, 3, 3),
            "model.33.m.3.bias": (255,),
        },
    ),
    "yolox-nano": (
        None,
        {
            "backbone.backbone.stem.conv.conv.weight": (16, 12, 3, 3),
            "backbone.backbone.dark2.0.dconv.conv.weight": (16, 1, 3, 3),
            "backbone.backbone.dark3.1.m.2.conv2.pconv.conv.weight": (32, 32, 1, 1),
            "backbone.backbone.dark5.1.conv2.conv.weight": (256, 512, 1, 1),
            "backbone.lateral_conv0.conv.weight": (128, 256, 1, 1),
            "backbone.C3_p4.conv1.conv.weight": (64, 256, 1, 1),
            "backbone.bu_conv1.dconv.bn.weight": (128,),
            "head.stems.2.conv.weight": (64, 256, 1, 1),
            "head.cls_convs.0.1.pconv.conv.weight": (64, 64, 1, 1),
            "head.reg_preds.1.weight": (4, 64, 1, 1),
            "head.obj_preds.0.bias": (1,),
            "head.cls_preds.2.weight": (80, 64, 1, 1),
        },
    ),
    "yolox-s": (
        None,
        {
            "backbone.backbone.dark4.1.m.2.conv2.conv.weight": (128, 128, 3, 3),
            "backbone.C3_n4.conv3.conv.weight": (512, 512, 1, 1),
            "head.reg_convs.2.1.conv.weight": (128, 128, 3, 3),
        },
    ),
    "damo-ns": (
        None,
        {
            "backbone.block_list.0.conv.conv1.weight": (16, 3, 3, 3),
            "backbone.block_list.0.conv.bn1.running_var": (16,),
            "backbone.block_list.1.block_list.0.conv.0.weight": (88, 16, 1, 1),
            "backbone.block_list.2.block_list.1.conv.3.weight": (160, 1, 5, 5),
            "backbone.block_list.4.block_list.0.conv.8.bias": (80,),
            "backbone.block_list.5.block_list.1.conv2.conv.weight": (160, 320, 1, 1),
            "backbone.block_list.5.block_list.2.conv.7.weight": (160, 880, 1, 1),
            "neck.bu_conv13.depthwise.weight": (80, 1, 3, 3),
            "neck.bu_conv57.pwnorm.weight": (40,),
            "neck.bu_conv76.pointwise.weight": (80, 80, 1, 1),
            "neck.merge_4.conv1.conv.weight": (40, 280, 1, 1),
            "neck.merge_5.convs.1.conv.conv.3.weight": (64, 1, 5, 5),
            "neck.merge_6.convs.0.conv.conv.7.weight": (80,),
            "head.gfl_cls.1.weight": (80, 80, 1, 1),
            "head.gfl_reg.2.bias": (32,),
            "head.scales.0.scale": (),
            "head.integral.project": (8,),
        },
    ),
    "damo-t": (
        None,
        {
            "backbone.block_list.0.conv.conv.weight": (24, 12, 3, 3),
            "backbone.block_list.2.block_list.0.conv1.conv1.weight": (64, 64, 1, 1),
            "backbone.block_list.3.block_list.1.conv2.rbr_dense.conv.weight": (192, 96, 3, 3),
            "backbone.block_list.4.block_list.1.conv1.bn1.weight": (152,),
            "backbone.block_list.5.block_list.0.conv2.rbr_1x1.bn.weight": (384,),
            "backbone.block_list.5.block_list.1.conv1.conv.weight": (192, 384, 1, 1),
            "neck.bu_conv24.conv.weight": (96, 96, 3, 3),
            "neck.merge_3.convs.2.conv2.rbr_dense.conv.weight": (192, 192, 3, 3),
            "neck.merge_7.convs.0.conv1.conv.weight": (64, 64, 3, 3),
            "neck.merge_6.conv3.conv.weight": (256, 512, 1, 1),
            "head.gfl_cls.0.weight": (80, 64, 3, 3),
            "head.gfl_reg.0.weight": (68, 64, 3, 3),
        },
    ),
    "damo-m": (
        None,
        {
            "backbone.csp_stage.0.conv.conv.weight": (32, 12, 3, 3),
            "backbone.csp_stage.1.downsampler.conv.conv1.weight": (128, 32, 3, 3),
            "backbone.csp_stage.2.convstem.2.conv1.conv1.weight": (64, 64, 3, 3),
            "backbone.csp_stage.3.convstem.6.conv2.rbr_dense.conv.weight": (128, 256, 3, 3),
            "backbone.csp_stage.4.spp.conv2.conv.weight": (512, 1024, 1, 1),
            "backbone.csp_stage.4.conv_fuse.conv.bn1.weight": (512,),
            "backbone.csp_stage.4.conv_shortcut.conv.conv1.weight": (256, 512, 1, 1),
        },
    ),
    "ppyolo-tiny": (
        None,
        {
            "backbone.conv1.conv.weight": (8, 3, 3, 3),
            "backbone.conv2.expand_conv.conv.weight": (8, 8, 1, 1),
            "backbone.conv5.mid_se.conv1.weight": (10, 40, 1, 1),
            "backbone.conv16.linear_conv.bn._variance": (80,),
            "neck.spp.conv.conv.weight": (80, 320, 1, 1),
            "neck.yolo_block.0.conv_module.yolo_block.0.1.conv.weight": (160, 1, 5, 5),
            "neck.yolo_block.1.conv_module.yolo_block.1.0.conv.weight": (128, 216, 1, 1),
            "neck.yolo_block.2.conv_module.yolo_block.2.route.batch_norm._mean": (96,),
            "neck.yolo_block.2.tip.conv.weight": (96, 96, 1, 1),
            "neck.yolo_transition.1.conv.weight": (128, 128, 1, 1),
            "yolo_head.yolo_output.0.weight": (255, 160, 1, 1),
            "yolo_head.yolo_output.2.bias": (255,),
        },
    ),
    "ppyolo-r18": (
        None,
        {
            "backbone.conv1.conv1_3.conv.weight": (64, 32, 3, 3),
            "backbone.res2.res2a.short.conv.weight": (64, 64, 1, 1),
            "backbone.res3.res3a.short.conv.conv.weight": (128, 64, 1, 1),
            "backbone.res5.res5b.branch2b.norm._mean": (512,),
            "neck.yolo_block.0.conv_module.route.conv.weight": (256, 512, 1, 1),
            "neck.yolo_block.1.tip.conv.weight": (256, 128, 3, 3),
        },
    ),
}
# The same of models that are large, found without their values.
LARGE_KNOWN: dict[str, dict[str, tuple[int, ...]]] = {
    "ppyolo-mbv3-s": {
        "backbone.conv12.linear_conv.conv.weight": (96, 576, 1, 1),
        "neck.yolo_block.0.conv_module.spp.conv.conv.weight": (96, 384, 1, 1),
        "neck.yolo_block.0.conv_module.route.conv.conv.weight": (256, 98, 1, 1),
        "neck.yolo_block.1.tip.conv.batch_norm.weight": (256,),
    },
    "ppyolo-r50-dcn": {
        "backbone.res5.res5c.branch2b.conv_offset.bias": (27,),
        "backbone.res5.res5a.branch2b.conv.weight": (512, 512, 3, 3),
        "neck.yolo_block.0.conv_module.conv2.conv.conv.weight": (512, 1026, 1, 1),
        "neck.yolo_block.0.conv_module.spp.conv.conv.weight": (512, 2048, 1, 1),
        "neck.yolo_block.0.conv_module.conv3.conv.weight": (1024, 512, 3, 3),
        "neck.yolo_block.2.conv_module.conv0.conv.conv.weight": (128, 642, 1, 1),
        "neck.yolo_block.1.tip.conv.conv.weight": (512, 258, 3, 3),
        "yolo_head.yolo_output.1.weight": (258, 512, 1, 1),
    },
    "ppyolov2-r101-dcn": {
        "backbone.res4.res4b22.branch2c.conv.weight": (1024, 256, 1, 1),
        "neck.fpn.0.conv_module.spp.conv.conv.weight": (512, 2048, 1, 1),
        "neck.fpn.1.conv_module.1.1.conv.weight": (256, 256, 3, 3),
        "neck.fpn_transition.1.conv.weight": (256, 512, 1, 1),
        "neck.pan.0.conv1.conv.weight": (512, 1536, 1, 1),
        "neck.pan_transition.1.conv.weight": (256, 256, 3, 3),
        "neck.pan.1.conv3.batch_norm._variance": (512,),
        "yolo_head.yolo_output.0.bias": (258,),
    },
}

FIXED = ("dfl.conv.weight", "anchors", "proj", "proj_conv.weight", "project")
LARGE = ("yolov6m", "yolov6l6", "damo-m")


@pytest.mark.parametrize("name", KNOWN)
def test_names_and_shapes_are_the_authors(name: str) -> None:
    count, known = KNOWN[name]
    tensors = official_tensors(name)
    assert count in (None, len(tensors))
    assert {key: tuple(tensors[key].shape) for key in known} == known
    assert all(re.match(r"(model\.\d+|backbone|neck|head|yolo_head|detect)\.", key) for key in tensors)


@pytest.mark.parametrize("name", LARGE_KNOWN)
def test_every_tensor_of_a_large_model_has_a_name_of_its_own(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name, 80)
    names = models._published(name).names(model.config, {}, "here")
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    shapes = {names.official(key): tuple(value.shape) for key, value in state.items()}
    assert len(shapes) == len(state)
    assert {key: shapes[key] for key in LARGE_KNOWN[name]} == LARGE_KNOWN[name]
    assert all(re.match(r"(backbone\.(conv\d+|res\d)|neck|yolo_head)\.", key) for key in shapes)
    assert not any(part in key for key in shapes for part in ("running_", ".bn.running", "blocks", "guide"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in KNOWN]
)
def test_a_file_in_their_layout_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = write_official(name, tmp_path / "official.pt", monkeypatch)
    model = models.load_pretrained(name, tmp_path / "official.pt")
    names = models._published(name).names(model.config, {}, "here")
    for ours, value in model.state_dict().items():
        torch.testing.assert_close(value, tensors[names.official(ours)].to(value), rtol=1e-3, atol=1e-3)
    other = models.load_pretrained(name, tmp_path / "official.pt", num_classes=3)
    assert other.config.num_classes == 3


def test_a_file_with_other_anchors_is_refused(tmp_path: Path) -> None:
    tensors = official_tensors("yolov5n")
    tensors["model.24.anchors"] *= 1.5
    torch.save({"model": tensors}, tmp_path / "official.pt")
    with pytest.raises(CheckpointError, match="other anchors than yolov5n"):
        models.load_pretrained("yolov5n", tmp_path / "official.pt")


def test_a_class_that_nothing_was_trained_for_is_left_out(tmp_path: Path) -> None:
    tensors = official_tensors("damo-ns")
    for name in [name for name in tensors if name.startswith("head.gfl_cls.")]:
        tensors[name] = torch.cat((tensors[name], torch.full_like(tensors[name][:1], 9)))
    torch.save({"model": tensors}, tmp_path / "official.pt")
    model = models.load_pretrained("damo-ns", tmp_path / "official.pt")
    assert model.config.num_classes == 80
    torch.testing.assert_close(model.head_16.class_logits.weight, tensors["head.gfl_cls.1.weight"][:80])
    whole = models.load_pretrained("damo-ns", tmp_path / "official.pt", num_classes=81)
    torch.testing.assert_close(whole.head_16.class_logits.bias, tensors["head.gfl_cls.1.bias"])


def test_a_file_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_official("yolox-s", tmp_path / "official.pt", monkeypatch)
    with pytest.raises(CheckpointError, match="does not fit yolox-tiny"):
        models.load_pretrained("yolox-tiny", tmp_path / "official.pt")
