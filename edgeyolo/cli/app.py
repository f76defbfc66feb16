"""The `edgeyolo` command: finds the verbs in this folder and runs the one that is asked for."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Annotated

import typer

from edgeyolo import __version__
from edgeyolo import cli as folder
from edgeyolo.cli.flags import describe_settings, make_command
from edgeyolo.spec.errors import EXIT_CODES

_SUMMARY = "From a labelled data set to an INT8 detector on a board, measured on what ships."
_NO_VERBS = ("app", "console", "flags")
# As one meets them; a verb that is not named comes after those of its panel, by its name.
_ORDER = [
    "import_",
    "train",
    "search",
    "quantize",
    "deploy",
    "estimate",
    "evaluate",
    "report",
    "demo",
    "build",
    "detect",
    "bench",
    "serve",
    "service",
    "data",
]
_ORDER += ["models", "targets", "recipes", "inspect", "doctor"]


def main() -> None:
    """Run the command line of this process and exit with its code."""
    make_app()(prog_name="edgeyolo")


def make_app() -> typer.Typer:
    """Build the command with every verb of this folder, each in the panel that its module names."""
    app = typer.Typer(
        help=_SUMMARY, epilog=_exit_codes(), no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback()(_show_version)
    for name, module in sorted(_load_verbs().items(), key=lambda item: _place(item[0])):
        verb = getattr(module, name)
        app.command(command_of(name), rich_help_panel=module.PANEL, epilog=describe_settings(verb))(make_command(verb))
    return app


def command_of(verb: str) -> str:
    """What a verb is called on the command line; `import_` has the name that Python does not give away."""
    return verb.rstrip("_")


def list_verbs() -> list[str]:
    """Names of the verbs, sorted."""
    names = (found.name for found in pkgutil.iter_modules(folder.__path__))
    return sorted(name for name in names if not name.startswith("_") and name not in _NO_VERBS)


def load_verb(name: str) -> ModuleType:
    """The module of a verb, which has a function of its name and the `PANEL` of the help that lists it."""
    return importlib.import_module(f"{folder.__name__}.{name}")


def _load_verbs() -> dict[str, ModuleType]:
    return {name: load_verb(name) for name in list_verbs()}


def _place(verb: str) -> tuple[int, str]:
    return (_ORDER.index(verb) if verb in _ORDER else len(_ORDER), verb)


def _exit_codes() -> str:
    return f"Exit codes: {', '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}."


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgeyolo {__version__}")
        raise typer.Exit()


def _show_version(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """From a labelled data set to an INT8 detector on a board, measured on what ships."""
