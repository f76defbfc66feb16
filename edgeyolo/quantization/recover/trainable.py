"""The seam to NVIDIA ModelOpt, whose fake quantizers train: nothing else in this project knows them."""

from __future__ import annotations

import copy
import warnings

from torch import fx, nn

from edgeyolo.quantization.calibrate.scales import integer_limit
from edgeyolo.quantization.quantizers import FakeQuantizer
from edgeyolo.spec.errors import MissingPackageError


def make_trainable(fake_quant: fx.GraphModule) -> fx.GraphModule:
    """A copy with ModelOpt's quantizers, which give the same numbers and whose backward pass is faster.

    Raises:
        MissingPackageError: ModelOpt is not installed.
    """
    copied = copy.deepcopy(fake_quant).requires_grad_(True)
    for name, module in list(copied.named_modules()):
        if isinstance(module, FakeQuantizer):
            copied.set_submodule(name, _make_quantizer(module))
    return copied


def _make_quantizer(plain: FakeQuantizer) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it uses torch.jit.script when imported
            from modelopt.torch.quantization.config import QuantizerAttributeConfig
            from modelopt.torch.quantization.nn import TensorQuantizer
    except ImportError as error:
        install = "pip install 'edgeyolo[train]'"
        needed_for = "quantization-aware training"
        raise MissingPackageError(error.name or "modelopt", needed_for=needed_for, install=install) from None
    axis = 0 if plain.scale.dim() else None
    config = QuantizerAttributeConfig(num_bits=plain.bits, axis=axis, narrow_range=True, pass_through_bwd=False)
    quantizer: nn.Module = TensorQuantizer(config, amax=plain.scale * integer_limit(plain.bits))
    return quantizer
