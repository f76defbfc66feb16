"""The flags of `edgeyolo train` are the fields of the training config, with its defaults and choices."""

from __future__ import annotations

import inspect
from enum import Enum
from typing import get_args, get_type_hints

import msgspec

from edgeyolo.cli.train import Optimizer, Precision, _parse_batch, train
from edgeyolo.spec.training import TrainConfig

OF_THE_COMMAND = {"data", "out", "weights", "resume", "set_", "show", "json"}


def test_flags_are_fields_with_the_same_defaults() -> None:
    fields = {field.name: field for field in msgspec.structs.fields(TrainConfig)}
    flags = {name: flag for name, flag in inspect.signature(train).parameters.items() if name not in OF_THE_COMMAND}
    assert set(flags) <= set(fields)
    for name, flag in flags.items():
        if name != "model":
            default = flag.default.value if isinstance(flag.default, Enum) else flag.default
            assert (_parse_batch(default) if name == "batch" else default) == fields[name].default, name


def test_choices_are_those_of_the_config() -> None:
    hints = get_type_hints(TrainConfig)
    assert {choice.value for choice in Optimizer} == set(get_args(hints["optimizer"]))
    assert {choice.value for choice in Precision} == set(get_args(hints["precision"]))
