"""How to calibrate, correct and fine-tune a quantized model, as data: `calib/<name>.toml`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from edgeyolo.spec.settings import Count, NotNegative, PartBelowOne, Positive, Share, WholeNumber
from edgeyolo.spec.shelf import list_shelf, load_from_shelf

DEFAULT_RECIPE = "int8-mse"

WeightBits = Annotated[int, Meta(ge=2, le=8)]


class QatRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Quantization-aware training from the calibrated model, with its scales frozen.

    Attributes:
        epochs: passes over the training split, each followed by an evaluation.
        batch: pictures per step.
        optimizer: "adamw" or "sgd".
        learning_rate: at the peak; short linear warm-up, then cosine. 1e-5 suits weights of 8 bits, whose steps are
            small; 1e-4 those of 4.
        final_learning_rate_factor: learning rate of the last step, as a part of the peak.
        weight_decay: of convolution and linear weights.
        ema_decay: of the averaged weights, which are the result; 0 keeps the last step's.
        feature_weight: of the mean squared error between the outputs of each stage and the frozen float copy's,
            each divided by the variance of the float one.
        detection_weight: of the model's own detection loss; 0 leaves it out.
        mosaic: probability; 0 trains on single pictures.
        precision: of the forward pass. bf16 has no more bits than the integers that are simulated: half of the
            roundings go the other way, and gradients follow them; auto is bf16 where the processor or GPU has it.
        seed: of order and augmentation.
        sparsity: "2:4" makes two weights of every four input channels zero and trains the others, for NVIDIA GPUs from
            Ampere on.
    """

    OLDER_WORDS: ClassVar = {"final_lr_factor": "final_learning_rate_factor", ("optimizer", "adam"): "adamw"}  # in 0.1

    epochs: Count = 10
    batch: Count = 8
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 1e-5
    final_learning_rate_factor: Share = 0.1
    weight_decay: NotNegative = 0.0
    ema_decay: PartBelowOne = 0.99
    feature_weight: NotNegative = 1.0
    detection_weight: NotNegative = 0.0
    mosaic: Share = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    seed: WholeNumber = 0
    sparsity: Literal["none", "2:4"] = "none"


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Calibration of activations and weights, and what is done to recover accuracy.

    Attributes:
        title: for people.
        observer: how an activation range is chosen; "output" tries ranges around that of "mse" and takes the one that
            changes least of what is detected.
        bins: even number of histogram bins, for observers that need one.
        clipping_weight: how many times a squared error of clipping counts against one of rounding, for "mse": clipping
            errs to one side, which sums do not average away; 1 for the plain squared error.
        percentile: part of the magnitudes inside the range, percent, for "percentile".
        count: training pictures to calibrate on; fewer are used, with a warning, where there are fewer.
        seed: of the choice of pictures.
        weight_observer: how a weight range is chosen, per output channel.
        weight_bits: of every weight.
        weight_bits_3x3: of 3x3 convolutions of stride 1; 6 for engines whose Winograd kernels overflow at 8.
        equalize: balance channel ranges between layers joined by a ReLU or LeakyReLU before calibration.
        bias_correction: move each bias by the mean error that quantization gives the layer's output.
        float_error: part of the error at the output to be rid of by keeping layers float: those first whose inputs have
            most of it for their work; 0 keeps none.
        depthwise: whether convolutions with one filter for each channel are int8 too, by a scale for each channel, as
            an NPU wants them; processors take longer for them in int8 than in float.
        float_layers: module paths kept float, `*` matches any part; each must match something.
        qat: settings of `--qat`.
    """

    title: str
    observer: Literal["max", "percentile", "entropy", "mse", "output"] = "mse"
    bins: Annotated[int, Meta(ge=256, le=16384)] = 2048
    clipping_weight: Annotated[float, Meta(ge=1)] = 8.0
    percentile: Annotated[float, Meta(gt=0, le=100)] = 99.99
    count: Count = 256
    seed: WholeNumber = 0
    weight_observer: Literal["max", "mse"] = "max"
    weight_bits: WeightBits = 8
    weight_bits_3x3: WeightBits = 8
    equalize: bool = False
    bias_correction: bool = False
    float_error: PartBelowOne = 0.0
    depthwise: bool = False
    float_layers: tuple[str, ...] = ()
    qat: QatRecipe = QatRecipe()


def with_sparsity(recipe: Recipe, sparsity: Literal["2:4"] | None) -> Recipe:
    """The recipe with that sparsity in its training; as it is for None."""
    if sparsity is None:
        return recipe
    return msgspec.structs.replace(recipe, qat=msgspec.structs.replace(recipe.qat, sparsity=sparsity))


def list_recipes() -> list[str]:
    """Names of the recipes known."""
    return list_shelf("calib")


def load_recipe(name: str) -> Recipe:
    """Read a recipe by name, or from a path ending in `.toml`.

    Raises:
        UnknownNameError: no such recipe. FormatError: its file is not valid.
    """
    return load_from_shelf("calib", "recipe", name, Recipe)
