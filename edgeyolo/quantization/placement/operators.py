"""What each operator of an fx graph does to the scale of a tensor."""

from __future__ import annotations

from enum import Enum

from torch import fx, nn

from edgeyolo.nn.coord import place_map
from edgeyolo.nn.deform import deform_conv

Modules = dict[str, nn.Module]


class Effect(Enum):
    """How the values that leave an operator relate to those that enter it."""

    VIEW = "the same values, arranged otherwise"
    SELECT = "some of the same values, or zero"
    JOIN = "the values of all inputs side by side"
    ADD = "new values, from operands that share a scale"
    NEW = "new values"
    UNKNOWN = "not known to this module"


CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
LAYERS = (*CONVOLUTIONS, nn.Linear)

_BY_NAME: dict[Effect, str] = {
    Effect.VIEW: "getitem chunk split tensor_split unbind view reshape flatten unflatten permute transpose contiguous "
    "clone detach squeeze unsqueeze expand narrow select flip roll dropout pixel_shuffle pixel_unshuffle "
    "channel_shuffle",
    Effect.SELECT: "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d upsample_nearest amax",
    Effect.JOIN: "cat concat concatenate stack hstack vstack",
    Effect.ADD: "add iadd",
    Effect.NEW: "relu relu6 leaky_relu silu hardswish hardsigmoid hardtanh sigmoid logsigmoid tanh mish gelu elu "
    "softplus softmax prelu batch_norm avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d mean sum mul imul "
    "sub isub truediv itruediv div neg pow exp sqrt clamp minimum maximum matmul bmm floordiv getattr size dim numel",
}
_EFFECT_OF_NAME = {name: effect for effect, names in _BY_NAME.items() for name in names.split()}

_BY_MODULE: dict[Effect, tuple[type[nn.Module], ...]] = {
    Effect.VIEW: (
        nn.Identity,
        nn.Dropout,
        nn.Dropout2d,
        nn.Flatten,
        nn.Unflatten,
        nn.PixelShuffle,
        nn.PixelUnshuffle,
        nn.ChannelShuffle,
    ),
    Effect.SELECT: (
        nn.MaxPool1d,
        nn.MaxPool2d,
        nn.MaxPool3d,
        nn.AdaptiveMaxPool1d,
        nn.AdaptiveMaxPool2d,
        nn.ZeroPad2d,
    ),
    Effect.NEW: (
        *LAYERS,
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.SiLU,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Hardtanh,
        nn.Sigmoid,
        nn.Tanh,
        nn.Mish,
        nn.GELU,
        nn.ELU,
        nn.PReLU,
        nn.Softplus,
        nn.Softmax,
        nn.BatchNorm2d,
        nn.AvgPool1d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool1d,
        nn.AdaptiveAvgPool2d,
    ),
}

_TORCH = {"torch", "_operator", "builtins", "math"}


def operator_name(node: fx.Node, modules: Modules) -> str:
    """The name of a node's module class, function or method, without underscores around it."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return name.strip("_")


def effect_of(node: fx.Node, modules: Modules) -> Effect:
    """What a node does to the scale of a tensor; UNKNOWN for an operator that is not listed here."""
    if node.op in ("placeholder", "get_attr", "output"):
        return Effect.NEW
    if node.op == "call_module":
        return _effect_of_module(modules[str(node.target)])
    if node.target in (place_map, deform_conv):
        return Effect.NEW
    if node.op == "call_function" and (getattr(node.target, "__module__", None) or "torch").split(".")[0] not in _TORCH:
        return Effect.UNKNOWN
    name = operator_name(node, modules)
    if name == "interpolate":
        is_nearest = _argument(node, 3, "mode", "nearest") in ("nearest", "nearest-exact")
        return Effect.SELECT if is_nearest else Effect.NEW
    if name == "pad":
        pads_zero = _argument(node, 2, "mode", "constant") == "constant" and not _argument(node, 3, "value", None)
        return Effect.SELECT if pads_zero else Effect.NEW
    return _EFFECT_OF_NAME.get(name, Effect.UNKNOWN)


def is_global_pool(node: fx.Node, modules: Modules) -> bool:
    """Whether a node reduces each channel of a picture to one number."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        pools = isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        return pools and _is_one(module.output_size)
    if node.op not in ("call_function", "call_method"):
        return False
    name = operator_name(node, modules)
    second = _argument(node, 1, "dim", node.kwargs.get("output_size"))
    if name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        return _is_one(second)
    if name in ("mean", "amax") and isinstance(second, list | tuple):
        return set(second) in ({2, 3}, {-1, -2})
    return False


def is_channel_pool(node: fx.Node, modules: Modules) -> bool:
    """Whether a node reduces the channels of each position to one number."""
    if node.op not in ("call_function", "call_method") or operator_name(node, modules) not in ("mean", "amax"):
        return False
    return _argument(node, 1, "dim", None) in (1, (1,), [1])


def _argument(node: fx.Node, position: int, name: str, default: object) -> object:
    """What a call gives for a parameter, by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _effect_of_module(module: nn.Module) -> Effect:
    if isinstance(module, nn.Upsample):
        return Effect.SELECT if module.mode.startswith("nearest") else Effect.NEW
    if isinstance(module, nn.ConstantPad2d):
        return Effect.SELECT if module.value == 0 else Effect.NEW
    return next((effect for effect, kinds in _BY_MODULE.items() if isinstance(module, kinds)), Effect.UNKNOWN)


def _is_one(output_size: object) -> bool:
    return output_size == 1 or (isinstance(output_size, list | tuple) and all(size == 1 for size in output_size))
