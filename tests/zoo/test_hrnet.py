"""HRNet: the counts of its authors, what is fused, and their names for its tensors."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from edgeyolo import models
from edgeyolo.models.hrnet import PUBLISHED, VARIANTS, Network
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization.placement.groups import find_placement
from edgeyolo.spec.work import count_gflops


@pytest.mark.parametrize(
    ("name", "training", "deploy", "multiply_adds"),
    [("hrnet-w32", 28_536_113, 28_508_945, 7.1), ("hrnet-w48", 63_595_745, 63_555_953, 14.6)],
)
def test_the_counts_are_those_of_its_authors(name: str, training: int, deploy: int, multiply_adds: float) -> None:
    with torch.device("meta"):
        model = models.create(name, 17)
    assert sum(p.numel() for p in model.parameters()) == training
    assert sum(p.numel() for p in fold_model(model).parameters()) == deploy
    gflops = count_gflops(models.convolutions_of(name))
    assert gflops * 1e9 / 2 / 2**30 == pytest.approx(multiply_adds, abs=0.05)  # they count in powers of two
    assert (models.task_of(name), models.image_hw_of_model(name)) == ("keypoints", (256, 192))


def narrow() -> Network:
    """Every layer of a large one, few channels."""
    wide = VARIANTS["hrnet-w32"]
    return Network(dataclasses.replace(wide, branch_chs=(16, 32, 64, 128), stem_chs=16, narrow_chs=16, num_classes=3))


def test_every_hidden_layer_is_int8_and_sums_share_a_scale() -> None:
    with torch.device("meta"):
        deploy = torch.fx.symbolic_trace(fold_model(narrow()))
    placement = find_placement(deploy)
    assert placement.unsupported == ()
    floats = {path for path, plan in placement.layers.items() if plan.precision == "float"}
    assert floats == {"heat"}
    assert all(plan.group for path, plan in placement.layers.items() if path not in floats)


def by_its_authors(config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' file: stages of modules of branches of blocks, and the sums between them."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, in_chs: int, out_chs: int, size: int) -> None:
        shapes[f"{conv}.weight"] = (out_chs, in_chs, size, size)
        shapes.update({f"{norm}.{part}": (out_chs,) for part in ("weight", "bias", "running_mean", "running_var")})

    chs, stem, wide = config.branch_chs, config.stem_chs, 4 * config.narrow_chs
    add("conv1", "bn1", 3, stem, 3)
    add("conv2", "bn2", stem, stem, 3)
    for i in range(config.narrow_blocks):
        for number, (given, got, size) in enumerate(
            ((stem if i == 0 else wide, wide // 4, 1), (wide // 4, wide // 4, 3), (wide // 4, wide, 1)), start=1
        ):
            add(f"layer1.{i}.conv{number}", f"layer1.{i}.bn{number}", given, got, size)
    add("layer1.0.downsample.0", "layer1.0.downsample.1", stem, wide, 1)
    add("transition1.0.0", "transition1.0.1", wide, chs[0], 3)
    add("transition1.1.0.0", "transition1.1.0.1", wide, chs[1], 3)
    add("transition2.2.0.0", "transition2.2.0.1", chs[1], chs[2], 3)
    add("transition3.3.0.0", "transition3.3.0.1", chs[2], chs[3], 3)
    for stage, count in zip((2, 3, 4), config.module_count, strict=True):
        for part in range(count):
            there = f"stage{stage}.{part}"
            for branch in range(stage):
                for i in range(config.block_count):
                    for number in (1, 2):
                        block = f"{there}.branches.{branch}.{i}"
                        add(f"{block}.conv{number}", f"{block}.bn{number}", chs[branch], chs[branch], 3)
            for to in range(1 if (stage, part) == (4, count - 1) else stage):
                for branch in range(stage):
                    way = f"{there}.fuse_layers.{to}.{branch}"
                    if branch > to:
                        add(f"{way}.0", f"{way}.1", chs[branch], chs[to], 1)
                    for i in range(to - branch):
                        out_chs = chs[to] if i == to - branch - 1 else chs[branch]
                        add(f"{way}.{i}.0", f"{way}.{i}.1", chs[branch], out_chs, 3)
    shapes |= {"final_layer.weight": (config.num_classes, chs[0], 1, 1), "final_layer.bias": (config.num_classes,)}
    return shapes


def test_a_file_of_its_authors_is_placed_whole(tmp_path) -> None:
    model, generator = narrow(), torch.Generator().manual_seed(0)
    file = {name: torch.rand(shape, generator=generator) for name, shape in by_its_authors(model.config).items()}
    torch.save(file, tmp_path / "pose_hrnet.pth")
    assert models.load_official_weights(model, tmp_path / "pose_hrnet.pth") == []
    ours = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(ours) == len(file)
    names = PUBLISHED.names(model.config, file, None)
    for name, value in ours.items():
        assert torch.equal(value, file[names.official(name)]), name


def test_the_small_one_has_the_same_parts() -> None:
    with torch.device("meta"):
        small, large = models.create("hrnet-w18-small", 17), models.create("hrnet-w32", 17)
    assert [name for name, _ in small.named_children()] == [name for name, _ in large.named_children()]
    assert sum(isinstance(module, nn.Conv2d) for module in small.modules()) < 100
