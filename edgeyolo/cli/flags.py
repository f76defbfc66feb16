"""A command from a function: its structs of options become flags, and `--help` says of each what its docstring says.

A verb is `def verb(console, ARGUMENTS, options: SomeOptions)`. What it works on is an argument, written in the
function; what can be left out is a field of a struct. A struct of many fields, `Annotated[SomeConfig, Shown(...)]`, has
flags for the fields named there; the rest is set with `--set KEY=VALUE` or in the TOML file of `--config`.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edgeyolo.cli.console import speaking
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.settings import Setting, check_settings, list_keys, list_settings, override_settings
from edgeyolo.spec.strict import load_toml

Verb = Callable[..., None]

_JSON = typer.Option("--json", help="Machine output on stdout, people's output on stderr.")
_SET = typer.Option("--set", metavar="KEY=VALUE", help="Any setting, those listed below too; may be given again.")
_CONFIG = typer.Option("--config", metavar="FILE.toml", help="Settings; flags go before it, and --set before all.")


class Shown:
    """Which fields of a struct have flags of their own.

    Args:
        fields: names, in the order of the help.
        defaults: of this command, where they are not those of the struct.
    """

    def __init__(self, *fields: str, **defaults: Any) -> None:
        self.fields, self.defaults = fields, defaults


@dataclass(frozen=True)
class _Group:
    """A struct parameter of a verb, and the settings that are flags."""

    parameter: str
    kind: type[msgspec.Struct]
    settings: tuple[Setting, ...]
    shown: Shown | None


def make_command(verb: Verb) -> Callable[..., None]:
    """The function that typer makes a command of: flags in the place of structs, `--json` last."""
    groups = {group.parameter: group for group in _list_groups(verb)}

    @functools.wraps(verb)
    def command(ctx: typer.Context, **given: Any) -> None:
        with speaking(json=given.pop("json")) as console:
            for group in groups.values():
                given[group.parameter] = _make_options(group, ctx, given)
            verb(console, **given)

    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name, hint, default in _list_parameters(verb):
        parameters += _list_flags(groups[name]) if name in groups else [_parameter(name, hint, default)]
    parameters.append(_parameter("json", Annotated[bool, _JSON], False))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def describe_settings(verb: Verb) -> str:
    """What `--set` takes and no flag has, a paragraph each; empty where the verb has no `--set`."""
    paragraphs = []
    for group in _list_groups(verb):
        if group.shown is None:
            continue
        flags = {setting.name for setting in group.settings}
        paragraphs.append("Settings that have no flag, for --set and --config:")
        paragraphs += [
            f"{key}={setting.default_text or 'none'}  {_help_of(setting, setting.range_text)}"
            for key, setting in list_keys(group.kind)
            if key not in flags
        ]
    return "\n\n".join(paragraphs)


def _list_parameters(verb: Verb) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and default of what a verb takes, its console left out."""
    hints = typing.get_type_hints(verb, include_extras=True)
    _, *parameters = inspect.signature(verb).parameters.values()
    for parameter in parameters:
        yield parameter.name, hints[parameter.name], parameter.default


def _list_groups(verb: Verb) -> list[_Group]:
    groups = []
    for name, hint, _ in _list_parameters(verb):
        kind, *notes = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            shown = next((note for note in notes if isinstance(note, Shown)), None)
            known = {setting.name: setting for setting in list_settings(kind)}
            fields = known if shown is None else shown.fields
            groups.append(_Group(name, kind, tuple(known[field] for field in fields), shown))
    return groups


def _list_flags(group: _Group) -> list[inspect.Parameter]:
    defaults = group.shown.defaults if group.shown else {}
    flags = [_make_flag(setting, defaults.get(setting.name, setting.default)) for setting in group.settings]
    if group.shown is not None:
        flags.append(_parameter("config_file", Annotated[Path | None, _CONFIG], None))
        flags.append(_parameter("overrides", Annotated[list[str] | None, _SET], None))
    return flags


def _make_flag(setting: Setting, default: Any) -> inspect.Parameter:
    name = f"--{setting.name.replace('_', '-')}"
    is_required = default is msgspec.NODEFAULT
    help_text = _help_of(setting, "" if setting.choices else setting.range_text)  # typer shows the choices itself
    if is_required:
        help_text += " Required, here or in --config."
    default = None if is_required or default == () else default
    kind: Any = setting.kind
    if kind is bool:
        declared = name if not default else f"{name}/--no-{name[2:]}"
        return _parameter(setting.name, Annotated[bool, typer.Option(declared, help=help_text)], default)
    if typing.get_origin(kind) is tuple:
        kind = list[str]
    if setting.form is not None:
        kind, default = str, None if default is None else str(default)
        option = typer.Option(name, help=help_text, metavar=setting.form.metavar)
    elif setting.words:
        option = typer.Option(
            name, help=help_text, parser=_make_parser(setting.words), metavar="|".join(["INTEGER", *setting.words])
        )
    else:
        option = typer.Option(name, help=help_text)
    if default is None:
        kind = kind | None
    return _parameter(setting.name, Annotated[kind, option], default)


def _make_parser(words: dict[str, int]) -> Callable[[object], int]:
    def number(written: object) -> int:
        text = str(written)
        return words[text] if text in words else int(text)

    return number


def _help_of(setting: Setting, limits: str) -> str:
    text = setting.text[:1].upper() + setting.text[1:]
    return f"{text.removesuffix('.')} ({limits})." if limits else text


def _make_options(group: _Group, ctx: typer.Context, given: dict[str, Any]) -> msgspec.Struct:
    """The struct that the flags, the file and `--set` stand for; takes them out of `given`.

    Raises:
        UsageError, FormatError: a value that cannot be used, or one that is missing.
    """
    values = {setting.name: _as_field(setting, given.pop(setting.name)) for setting in group.settings}
    if group.shown is None:
        options = group.kind(**values)
    else:
        written = {name: value for name, value in values.items() if _is_written(ctx, name)}
        options = _merge(group, written, given.pop("config_file"), parse_overrides(given.pop("overrides") or []))
    check_settings(options)
    return options


def _merge(group: _Group, flags: dict[str, Any], file: Path | None, overrides: dict[str, str]) -> msgspec.Struct:
    """Defaults of the command, below the file's settings, below flags, below `--set`."""
    assert group.shown is not None
    required = [setting.name for setting in group.settings if setting.default is msgspec.NODEFAULT]
    base = group.shown.defaults | dict.fromkeys(required, "")
    options = msgspec.convert(base, group.kind) if file is None else load_toml(file, group.kind, defaults=base)
    options = override_settings(msgspec.structs.replace(options, **flags), overrides)
    for name in required:
        if not getattr(options, name):
            raise UsageError(f"no {name} is given", hint=f"Give --{name.replace('_', '-')}, or {name} in --config")
    return options


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """`["key=value"]` as a dictionary.

    Raises:
        UsageError: an entry without "=".
    """
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError("is not KEY=VALUE", where=f"--set {pair}", hint="Write it as --set momentum=0.9")
        overrides[key] = value
    return overrides


def _is_written(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _as_field(setting: Setting, value: Any) -> Any:
    """What typer gives as what the field holds.

    Raises:
        UsageError: text that is not a value of its type.
    """
    if typing.get_origin(setting.kind) is tuple:
        return tuple(value or ())
    if setting.form is not None and value is not None:
        return setting.read(value, setting.name)
    return value


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
