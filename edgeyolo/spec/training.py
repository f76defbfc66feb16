"""Everything that decides how a training goes, as data: saved beside its output and inside its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges and probabilities of the augmentations; 0 switches one off.

    Attributes:
        hsv_h: largest turn of the hue, as a part of the circle, in [0, 0.5].
        hsv_s: largest relative change of the saturation, in [0, 1].
        hsv_v: largest relative change of the value, in [0, 1].
        degrees: largest rotation, either way, in [0, 180].
        translate: largest shift, as a part of the input's sides, in [0, 1].
        scale: the size factor is drawn from [1 - scale, 1 + scale]; in [0, 0.95].
        shear: largest shear along each axis, degrees, in [0, 60].
        flip_lr: probability of a mirror image, in [0, 1].
        flip_ud: probability of turning upside down, in [0, 1].
        mosaic: probability that four pictures are put into one, in [0, 1].
        mixup: probability that a mosaic is laid over another one, in [0, 1].
        copy_paste: probability that objects of another picture are pasted in, in [0, 1]; left out with mosaics.
    """

    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    flip_lr: float = 0.5
    flip_ud: float = 0.0
    mosaic: float = 1.0
    mixup: float = 0.05
    copy_paste: float = 0.0


class DistillConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much a teacher counts.

    Weights are in units of the student's family, whose own losses differ twentyfold in size.

    Attributes:
        feature: weight of the features' part, 0 switches it off.
        head: weight of the heads' parts, 0 switches them off.
        temperature: of the softmax over a channel's cells; a high one shows more than the peaks.
    """

    feature: float = 10.0
    head: float = 0.5
    temperature: float = 4.0


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run.

    Attributes:
        model: name as in `edgeyolo models`.
        activation: of the hidden layers, None for the model's own.
        epochs: passes over the training split.
        image_size: side of the square network input, pixels, a multiple of the coarsest stride.
        batch: pictures per step, over all processes; small data sets need many steps more than they need large ones. 0
            finds the largest power of two that memory and the size of the data set allow, at most 64.
        accumulate: parts that each process walks its pictures of a step in, to need less memory; costs a second forward
            pass, and gives the gradients of the whole batch, but for batch normalisation, which sees a part.
        optimizer: AdamW suits small data sets and short runs; SGD with Nesterov momentum long ones.
        learning_rate: peak; None for what suits the model with AdamW, 0.05 with SGD. The run's record has the number.
        final_learning_rate_factor: learning rate at the end / peak.
        schedule: how the learning rate falls after warm-up.
        momentum: SGD momentum, or beta 1 of AdamW.
        weight_decay: of convolution weights; None for the optimizer's default (AdamW 0.02, SGD 0.0005).
        warmup_epochs: linear from 0 to the peak; at most a tenth of all steps.
        warmup_bias_learning_rate: where biases start instead of at 0, to come down to the peak; None as all others.
        warmup_momentum: where momentum starts, to reach `momentum` with the peak; None starts with it.
        ema_decay: of the moving average of weights, which is what is evaluated and saved.
        clip_norm: largest gradient norm.
        label_smoothing: of class labels, 0-1; only for losses that ask for whole classes (YOLOv7).
        class_balance: classes that fewer than this part of the pictures have come up more often, 0-1; 0 for never.
        multi_scale: each step's input side is drawn from [1 - this, 1 + this] of image_size, 0-0.9.
        freeze: modules of the model by name, such as backbone, whose weights and statistics stay as they are.
        close_mosaic_epochs: last epochs without mosaic and mixup, at most a sixth of all.
        patience: stop after this many epochs without a better AP, 0 for never.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        precision: of the forward pass; auto is bf16 where the processor or GPU has it, else fp32; fp16 needs a GPU.
        compile: let torch.compile build the forward pass; pays on long runs on a GPU.
        sync_batch_norm: statistics of batch normalisation over the pictures of all processes, not of each one.
        device: auto is CUDA where there is one.
        seed: of weights, order and augmentation.
        workers: loader processes.
        cache_mib: memory for decoded pictures.
        cache_on_disk: keep them in a file of that size, in the cache folder of edgeyolo, instead of in memory.
        tensorboard: write a TensorBoard log beside the others.
        auto_anchor: give the model other anchors where its own reach too few of the objects (YOLOv7).
        teacher: checkpoint that teaches the model, of any model; None for none.
        distill: how much the teacher counts.
        augment: ranges of the augmentations.
    """

    model: str
    activation: str | None = None
    epochs: int = 60
    image_size: int = 640
    batch: int = 8
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float | None = None
    final_learning_rate_factor: float = 0.02
    schedule: Literal["cosine", "linear"] = "cosine"
    momentum: float = 0.9
    weight_decay: float | None = None
    warmup_epochs: float = 3.0
    warmup_bias_learning_rate: float | None = None
    warmup_momentum: float | None = None
    ema_decay: float = 0.9998
    clip_norm: float = 10.0
    label_smoothing: float = 0.0
    class_balance: float = 0.0
    multi_scale: float = 0.0
    freeze: tuple[str, ...] = ()
    close_mosaic_epochs: int = 10
    patience: int = 0
    evaluate_every: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    sync_batch_norm: bool = True
    device: str = "auto"
    seed: int = 0
    workers: int = 1
    cache_mib: int = 2048
    cache_on_disk: bool = False
    tensorboard: bool = False
    auto_anchor: bool = True
    teacher: str | None = None
    distill: DistillConfig = DistillConfig()
    augment: AugmentConfig = AugmentConfig()

    @property
    def decay(self) -> float:
        """The weight decay in force."""
        return self.weight_decay if self.weight_decay is not None else {"adamw": 2e-2, "sgd": 5e-4}[self.optimizer]

    @property
    def last_mosaic_epoch(self) -> int:
        """Epochs from this one on are trained without mosaic and mixup."""
        return self.epochs - min(self.close_mosaic_epochs, self.epochs // 6)
