"""Flags, `--set`, TOML and help are the fields of the structs: none is left out, and one default holds everywhere."""

from __future__ import annotations

import inspect
import json
import re
import typing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

import edgeyolo
from edgeyolo.cli.app import command_of, list_verbs, load_verb, make_app
from edgeyolo.cli.console import Console
from edgeyolo.cli.flags import Shown, make_command
from edgeyolo.runtime import Detector
from edgeyolo.spec.deploying import DeployOptions, EvaluateOptions
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.errors import EXIT_CODES, EdgeYoloError
from edgeyolo.spec.settings import Setting, list_keys, list_settings
from edgeyolo.spec.training import TrainConfig, TrainOptions

CONFIG = Annotated[TrainConfig, Shown("model", "epochs", "batch", "activation", epochs=20)]


def structs_of(verb: str) -> list[type[msgspec.Struct]]:
    """The structs of options in the signature of a verb's function."""
    hints = typing.get_type_hints(getattr(load_verb(verb), verb))
    return [hint for hint in hints.values() if isinstance(hint, type) and issubclass(hint, msgspec.Struct)]


def help_lines(verb: str) -> list[str]:
    """One line per option, without the frame and runs of blanks."""
    shown = CliRunner().invoke(
        make_app(), [command_of(verb), "--help"], env={"COLUMNS": "700", "TERMINAL_WIDTH": "700"}
    )
    assert shown.exit_code == 0, shown.output
    return [" ".join(line.strip("│ *\n").split()) for line in shown.output.splitlines()]


def run_with(arguments: list[str], seen: list[Any]) -> Any:
    """Invoke a command whose verb only remembers its config."""

    def verb(console: Console, config: CONFIG) -> None:
        seen.append(config)

    app = typer.Typer()
    app.command()(make_command(verb))
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("verb", list_verbs())
def test_help_shows_every_field_with_its_text_default_and_range(verb: str) -> None:
    lines = help_lines(verb)
    for kind in structs_of(verb):
        for key, setting in list_keys(kind):
            flag = f"--{key.replace('_', '-')} "
            found = [line for line in lines if line.startswith((flag, f"{key}="))]
            assert len(found) == 1, key
            (line,) = found
            told = line.casefold()
            assert setting.text and " ".join(setting.text.split()).removesuffix(".").casefold() in told, key
            assert not setting.section and all(choice in line for choice in setting.choices), key
            if not setting.choices:
                assert setting.range_text in line, key
            assert_default_is_told(verb, key, setting, line)


def assert_default_is_told(verb: str, key: str, setting: Setting, line: str) -> None:
    if setting.default is msgspec.NODEFAULT:
        assert "Required" in line
    elif line.startswith(f"{key}="):
        assert line.startswith(f"{key}={setting.default_text or 'none'} ")
    elif setting.default not in (None, (), False):
        (told,) = re.findall(r"\[default: ([^\]]*)\]", line)
        if setting.default is True:
            assert told == key
        else:
            own = getattr(load_verb(verb), "_SHOWN", Shown()).defaults.get(key, setting.default)
            assert type(own)(told) == own


def test_every_field_of_every_verb_has_a_text() -> None:
    kinds = {kind for verb in list_verbs() for kind in structs_of(verb)}
    assert len(kinds) >= 9
    for kind in kinds:
        assert all(setting.text for setting in list_settings(kind))


def test_activations_are_those_that_networks_are_built_with() -> None:
    from edgeyolo.nn.activation import list_activations

    (activation,) = (s for s in list_settings(TrainConfig) if s.name == "activation")
    assert sorted(activation.choices) == list_activations()
    assert "mish" in " ".join(line for line in help_lines("train") if line.startswith("--activation "))


@pytest.mark.parametrize(
    ("function", "struct"),
    [
        (edgeyolo.train, TrainOptions),
        (edgeyolo.deploy, DeployOptions),
        (edgeyolo.evaluate, EvaluateOptions),
        (Detector.load, Thresholds),
    ],
)
def test_python_has_the_defaults_of_the_command(function: Any, struct: type[msgspec.Struct]) -> None:
    parameters = inspect.signature(function).parameters
    for setting in list_settings(struct):
        assert parameters[setting.name].default == setting.default, setting.name


def test_every_exit_code_is_in_the_help() -> None:
    kinds = [EdgeYoloError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} | {0} == set(EXIT_CODES)
    text = " ".join(CliRunner().invoke(make_app(), ["--help"]).output.split())
    assert all(f"{code} {meaning}" in text for code, meaning in EXIT_CODES.items())


def test_set_goes_before_flags_and_flags_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "best.toml"
    file.write_text('model = "a"\nepochs = 7\nbatch = 4\nmomentum = 0.5\n\n[augment]\nmosaic = 0.25\n')
    seen: list[TrainConfig] = []
    assert run_with(["--config", str(file)], seen).exit_code == 0
    assert run_with(["--config", str(file), "--epochs", "9", "--model", "b"], seen).exit_code == 0
    everything = ["--config", str(file), "--epochs", "9", "--set", "epochs=11", "--set", "augment.mosaic=1"]
    assert run_with(everything, seen).exit_code == 0
    assert run_with(["--model", "c", "--batch", "auto"], seen).exit_code == 0
    assert [(c.model, c.epochs, c.batch, c.momentum, c.augment.mosaic) for c in seen] == [
        ("a", 7, 4, 0.5, 0.25),
        ("b", 9, 4, 0.5, 0.25),
        ("a", 11, 4, 0.5, 1.0),
        ("c", 20, 0, 0.9, 1.0),
    ]
    assert seen[0].augment.mixup == TrainConfig(model="").augment.mixup


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--model"),
        (["--model", "m", "--epochs", "0"], "epochs is 0. It must be at least 1"),
        (["--model", "m", "--set", "ema_decay=1"], "ema_decay is 1.0. It must be in [0, 1)"),
        (["--model", "m", "--set", "augment.degrees=181"], "augment.degrees is 181.0. It must be in [0, 180]"),
        (["--model", "m", "--set", "momentum=nan"], "momentum is nan"),
        (["--model", "m", "--set", "schedule=square"], "It must be one of cosine, linear"),
        (["--model", "m", "--set", "augment=1"], "unknown setting 'augment'"),
        (["--model", "m", "--set", "augment.mosiac=1"], "Did you mean 'augment.mosaic'?"),
        (["--model", "m", "--activation", "gelu"], "mish"),
        (["--model", "m", "--batch", "many"], "many"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_range(arguments: list[str], expected: str) -> None:
    outcome = run_with(arguments, [])
    assert outcome.exit_code == 2
    assert expected in outcome.stderr


def test_a_file_of_settings_is_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "best.toml"
    for text, expected in [
        ("epocs = 3\n", "Did you mean 'epochs'?"),
        ("epochs = 0\n", ">= 1"),
        ("epochs = [\n", "best.toml"),
    ]:
        file.write_text(text)
        outcome = run_with(["--model", "m", "--config", str(file), "--json"], [])
        assert outcome.exit_code == 1 and expected in outcome.stderr
        assert json.loads(outcome.stdout)["error"]["kind"] == "FormatError"
    assert run_with(["--model", "m", "--config", str(tmp_path / "none.toml")], []).exit_code == 1
