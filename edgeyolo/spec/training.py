"""Everything that decides how a training goes, as data: saved beside its output and inside its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgeyolo.spec.settings import Count, NotNegative, PartBelowOne, Positive, Share, WholeNumber
from edgeyolo.spec.sizes import ImageSize, image_hw_of

Activation = Literal["hardswish", "leaky_relu", "mish", "relu", "silu"]
BoxLoss = Literal["iou", "giou", "diou", "ciou", "eiou", "siou"]
ClassLoss = Literal["bce", "quality_focal", "varifocal"]

_USUAL_SIDE = 640  # of a detector's input


class AugmentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ranges and probabilities of the augmentations; 0 switches one off.

    Attributes:
        hsv_h: largest turn of the hue, as a part of the circle.
        hsv_s: largest relative change of the saturation.
        hsv_v: largest relative change of the value.
        degrees: largest rotation, either way, degrees.
        translate: largest shift, as a part of the input's sides.
        scale: the size factor is drawn from [1 - scale, 1 + scale].
        shear: largest shear along each axis, degrees.
        flip_lr: probability of a mirror image.
        flip_ud: probability of turning upside down.
        mosaic: probability that four pictures are put into one.
        mixup: probability that a mosaic is laid over another one.
        copy_paste: probability that objects of another picture are pasted in; left out with mosaics.
        cutmix: probability that a part of another picture takes the place of this one's; left out with mosaics.
        cutout: probability that a square is hidden behind grey.
        cutout_size: side of that square, as a part of the input's shorter side.
    """

    hsv_h: Annotated[float, Meta(ge=0, le=0.5)] = 0.015
    hsv_s: Share = 0.7
    hsv_v: Share = 0.4
    degrees: Annotated[float, Meta(ge=0, le=180)] = 0.0
    translate: Share = 0.1
    scale: Annotated[float, Meta(ge=0, le=0.95)] = 0.5
    shear: Annotated[float, Meta(ge=0, le=60)] = 0.0
    flip_lr: Share = 0.5
    flip_ud: Share = 0.0
    mosaic: Share = 1.0
    mixup: Share = 0.05
    copy_paste: Share = 0.0
    cutmix: Share = 0.0
    cutout: Share = 0.0
    cutout_size: Annotated[float, Meta(gt=0, le=1)] = 0.3


class DropBlockConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much of its features a network has to do without while it is trained.

    Attributes:
        probability: of a cell of the two coarsest levels, in the last epoch, to which it rises in a line; 0 switches it
            off. 0.1 suits long runs.
        size: side of the squares that are dropped, cells of the level.
        place: part of the network whose maps it is, backbone or neck.
    """

    probability: PartBelowOne = 0.0
    size: Count = 7
    place: Literal["backbone", "neck"] = "backbone"


class DistillConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much a teacher counts.

    Weights are in units of the student's family, whose own losses differ twentyfold in size.

    Attributes:
        feature: weight of what the teacher sees, the maps of its neck; 0 switches it off.
        head: weight of what the teacher says, the outputs of its head; 0 switches it off.
        temperature: temperature of the softmax over a channel's cells; a high one shows more than the peaks.
        dynamic_temperature: each channel's temperature is its standard deviation over the batch instead (DAMO-YOLO).
        align: a learned 1x1 convolution stands behind each map of the student, not only where the teacher's has other
            channels (DAMO-YOLO).
        final_weight_factor: weights at the end of what is taught / at its start; they fall by half a cosine.
        two_stages: the teacher leaves when mosaics end, and the student trains on alone (DAMO-YOLO).
    """

    feature: NotNegative = 10.0
    head: NotNegative = 0.5
    temperature: Positive = 4.0
    dynamic_temperature: bool = False
    align: bool = False
    final_weight_factor: NotNegative = 1.0
    two_stages: bool = False


class KeypointsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How persons are shown to a model that finds joints, and what its heat maps should be; 0 switches one off.

    Attributes:
        scale: standard deviation of the size factor, and how far from 1 it may be.
        degrees: standard deviation of the turn, degrees; twice that at most.
        turned: probability of a turn.
        flip_lr: probability of a mirror image.
        half_body: probability that only the upper or the lower half of a person is cut out.
        half_body_joints: labelled joints that a person needs for that.
        sigma: of the Gaussian around a joint, cells of the map.
        hardest: only so many joints of each person count, the worst ones (OHKM); 0 for all.
    """

    scale: Annotated[float, Meta(ge=0, le=0.95)] = 0.35
    degrees: Annotated[float, Meta(ge=0, le=180)] = 40.0
    turned: Share = 0.6
    flip_lr: Share = 0.5
    half_body: Share = 0.3
    half_body_joints: Count = 8
    sigma: Annotated[float, Meta(gt=0, le=20)] = 2.0
    hardest: WholeNumber = 0


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One training run.

    Attributes:
        model: name of the model, as `edgeyolo models` lists it.
        activation: activation of the hidden layers; the model's own if not given.
        epochs: passes over the training split.
        image_size: side of the network's square input, or its height and width, pixels, each a multiple of the coarsest
            stride; if not given, 640, or the model's own where it finds joints.
        batch: pictures per step, over all processes; small data sets need many steps more than they need large ones. 0,
            or auto, finds the largest power of two that memory and the size of the data set allow, at most 64.
        accumulate: parts that each process walks its pictures of a step in, to need less memory; costs a second forward
            pass, and gives the gradients of the whole batch, but for batch normalisation, which sees a part.
        optimizer: AdamW suits small data sets and short runs; SGD with Nesterov momentum long ones.
        learning_rate: learning rate at its peak; if not given, what suits the model with AdamW, 0.05 with SGD. The
            run's record has the number.
        final_learning_rate_factor: learning rate at the end / peak.
        schedule: how the learning rate falls after warm-up.
        momentum: momentum of SGD, or beta 1 of AdamW.
        weight_decay: weight decay of convolutions; if not given, 0.02 with AdamW, 0.0005 with SGD.
        warmup_epochs: epochs of the linear way from 0 to the peak; at most a tenth of all steps.
        warmup_bias_learning_rate: where biases start, to come down to the peak; as all others, at 0, if not given.
        warmup_momentum: where momentum starts, to reach `momentum` with the peak; starts with it if not given.
        ema_decay: decay of the moving average of weights, which is what is evaluated and saved.
        clip_norm: largest gradient norm.
        box_loss: overlap that boxes are trained on; the model's own if not given.
        box_loss_alpha: power of the overlap and of its penalties, as in alpha-IoU, where 3 is advised; 1 if not given,
            but 2 in the own loss of YOLOX.
        class_loss: loss of the classes; the model's own if not given. varifocal is only for losses that ask for graded
            scores (all but YOLOv3 to v5 and YOLOv7).
        label_smoothing: smoothing of class labels; only for losses that ask for whole classes (YOLOv3 to v5, YOLOv7).
        class_balance: classes that fewer than this part of the pictures have come up more often; 0 for never.
        multi_scale: each step's longer input side is drawn from [1 - this, 1 + this] of image_size, and the shorter
            one follows.
        freeze: modules of the model by name, such as backbone, whose weights and statistics stay as they are.
        close_mosaic_epochs: last epochs without mosaic and mixup, at most a sixth of all.
        patience: stop after this many epochs without a better AP, 0 for never.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        precision: numbers of the forward pass; auto is bf16 where the processor or GPU has it, else fp32; fp16 needs a
            GPU.
        compile: let torch.compile build the forward pass; pays on long runs on a GPU.
        sync_batch_norm: statistics of batch normalisation over the pictures of all processes, not of each one.
        cross_batch_norm: with `accumulate`, statistics of batch normalisation over the part of a batch and those before
            it (CmBN of YOLOv4), on each process by itself.
        device: processor that trains: cpu, cuda or cuda:N; auto is CUDA where there is one.
        seed: seed of weights, order and augmentation.
        workers: loader processes.
        cache_mib: memory for decoded pictures, MiB.
        cache_on_disk: keep them in a file of that size, in the cache folder of edgeyolo, instead of in memory.
        tensorboard: write a TensorBoard log beside the others.
        auto_anchor: give the model other anchors where its own reach too few of the objects (YOLOv7).
        auxiliary: train the branch beside the model that its authors train and throw away (YOLOv6).
        rep: form in which RepVGG convolutions are trained: branches; scaled, to find what branches would weigh; plain,
            as one convolution each, for int8 without training there.
        rep_scales: run with rep = scaled, of the same model, whose scales say how plain convolutions start and learn.
        teacher: checkpoint that teaches the model, of any model; nobody teaches if not given.
        distill: how much the teacher counts.
        drop_block: squares of the features that are dropped.
        adversarial: probability that the network first changes a picture so that it sees nothing in it, and then learns
            from that; each such step costs two.
        augment: ranges of the augmentations.
        keypoints: those of models that find joints, and their heat maps.
    """

    model: str
    activation: Activation | None = None
    epochs: Count = 60
    image_size: ImageSize | None = None
    batch: Annotated[int, Meta(ge=0, extra={"words": {"auto": 0}})] = 8
    accumulate: Count = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive | None = None
    final_learning_rate_factor: NotNegative = 0.02
    schedule: Literal["cosine", "linear"] = "cosine"
    momentum: PartBelowOne = 0.9
    weight_decay: NotNegative | None = None
    warmup_epochs: NotNegative = 3.0
    warmup_bias_learning_rate: NotNegative | None = None
    warmup_momentum: PartBelowOne | None = None
    ema_decay: PartBelowOne = 0.9998
    clip_norm: Positive = 10.0
    box_loss: BoxLoss | None = None
    box_loss_alpha: Annotated[float, Meta(ge=1, le=10)] | None = None
    class_loss: ClassLoss | None = None
    label_smoothing: PartBelowOne = 0.0
    class_balance: PartBelowOne = 0.0
    multi_scale: Annotated[float, Meta(ge=0, lt=0.9)] = 0.0
    freeze: tuple[str, ...] = ()
    close_mosaic_epochs: WholeNumber = 10
    patience: WholeNumber = 0
    evaluate_every: Count = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    sync_batch_norm: bool = True
    cross_batch_norm: bool = False
    device: str = "auto"
    seed: WholeNumber = 0
    workers: WholeNumber = 1
    cache_mib: WholeNumber = 2048
    cache_on_disk: bool = False
    tensorboard: bool = False
    auto_anchor: bool = True
    auxiliary: bool = True
    rep: Literal["branches", "scaled", "plain"] = "branches"
    rep_scales: str | None = None
    teacher: str | None = None
    distill: DistillConfig = DistillConfig()
    drop_block: DropBlockConfig = DropBlockConfig()
    adversarial: Share = 0.0
    augment: AugmentConfig = AugmentConfig()
    keypoints: KeypointsConfig = KeypointsConfig()

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the network input, pixels; of a detector, where they are not given."""
        return image_hw_of(_USUAL_SIDE if self.image_size is None else self.image_size)

    @property
    def decay(self) -> float:
        """The weight decay in force."""
        return self.weight_decay if self.weight_decay is not None else {"adamw": 2e-2, "sgd": 5e-4}[self.optimizer]

    @property
    def last_mosaic_epoch(self) -> int:
        """Epochs from this one on are trained without mosaic and mixup."""
        return self.epochs - min(self.close_mosaic_epochs, self.epochs // 6)

    @property
    def taught_epochs(self) -> int:
        """Epochs from this one on are trained without a teacher."""
        return self.last_mosaic_epoch if self.distill.two_stages else self.epochs


class TrainOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `train` does besides what its config says.

    Attributes:
        weights: checkpoint to start from, or official .pt, .pdparams or .weights.
        resume: go on from the last checkpoint in the folder of the run.
        report: write train.html: curves, confusion, pictures.
    """

    weights: Path | None = None
    resume: bool = False
    report: bool = True


class SearchOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `search` looks for, and how long.

    Attributes:
        trials: short runs in all, those done before included.
        vary: a setting to search, KEY=LOW:HIGH or KEY=LOW:HIGH:log, such as learning_rate=1e-4:1e-2:log; again for
            more. The optimizer's rates, the average and the augmentations if not given.
        storage: URL of a database that machines share; SQLite in the folder of the search if not given.
        keep_all: keep every run, not only the best.
    """

    trials: Count = 30
    vary: tuple[str, ...] = ()
    storage: str | None = None
    keep_all: bool = False


SEARCH_DEFAULTS = {"epochs": 20, "image_size": 320}  # of each run, where `TrainConfig` has those of a whole training
