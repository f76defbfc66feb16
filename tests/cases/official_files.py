"""Weights of a family as its authors publish them: their names for tensors, their kind of file, random values."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeyolo import models


def official_tensors(name: str, *, is_fresh: bool = False) -> dict[str, Tensor]:
    """Values under the authors' names, random or those of a fresh network; the network's parts say which there are."""
    torch.manual_seed(1)
    model = models.create(name, 80)
    names = models._published(name).names(model.config, {}, "here")
    tensors = {names.official(ours): value for ours, value in model.state_dict().items()}
    if name.startswith("yolov8"):
        tensors["model.22.dfl.conv.weight"] = torch.arange(16.0).view(1, 16, 1, 1)
    if name.startswith("yolov6"):
        tensors["detect.proj"], tensors["detect.proj_conv.weight"] = (
            torch.arange(17.0),
            torch.arange(17.0)[None, :, None, None],
        )
        for level, chs in enumerate((32, 64, 128)):  # what only training needs
            tensors[f"detect.cls_preds_ab.{level}.weight"] = torch.zeros(240, chs, 1, 1)
            tensors[f"detect.reg_preds_dist.{level}.bias"] = torch.zeros(68)
    if name.startswith("yolov5"):
        anchors = torch.tensor(model.config.anchors_wh) / torch.tensor(model.strides)[:, None, None]
        tensors[next(key for key in tensors if ".m.0.bias" in key).replace("m.0.bias", "anchors")] = anchors
    if name.startswith("damo"):
        tensors["head.integral.project"] = torch.arange(float(model.config.bins))
    for key, value in tensors.items():
        if (
            not is_fresh
            and value.is_floating_point()
            and not key.endswith(("dfl.conv.weight", "anchors", "proj", "proj_conv.weight", "project"))
        ):
            value.copy_(torch.rand_like(value) * 0.5 + 0.1)
    return tensors


class DetectionModel(nn.Module):
    """What a file of YOLOv6 or YOLOv8 pickles: modules inside modules, each parameter at its path."""


def as_modules(tensors: dict[str, Tensor]) -> nn.Module:
    root = DetectionModel()
    for name, value in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_buffer(leaf, value)
    return root


def write_official(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch, *, is_fresh: bool = False
) -> dict[str, Tensor]:
    """Write them as the authors publish them; returns what was written."""
    tensors = official_tensors(name, is_fresh=is_fresh)
    if name.startswith(("yolox", "damo")):
        torch.save({"start_epoch": 300, "model": tensors, "optimizer": None}, path)
        return tensors
    if name.startswith("ppyolo"):
        arrays = {key: value.numpy() for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
        path.write_bytes(pickle.dumps(arrays, protocol=2))
        return tensors
    places = {"yolov6": "yolov6.models.yolo", "yolov7": "models.yolo"}
    place = places.get(name[:6], "ultralytics.nn.tasks")
    parts = place.split(".")
    package = types.ModuleType(place)
    package.DetectionModel = DetectionModel  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for count in range(1, len(parts) + 1):
            patch.setitem(sys.modules, ".".join(parts[:count]), package)
        patch.setattr(DetectionModel, "__module__", place)
        torch.save({"epoch": -1, "model": as_modules(tensors).half(), "ema": None, "train_args": {"imgsz": 640}}, path)
    return tensors
