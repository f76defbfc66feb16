"""The `edgeyolo` command: finds the verbs in this folder and runs the one that is asked for."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Annotated

import typer

from edgeyolo import __version__
from edgeyolo import cli as folder

_SUMMARY = "From a labelled data set to an INT8 detector on a board, measured on what ships."
_EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a tool or package is missing, 4 a gate was not met."


def main() -> None:
    """Run the command line of this process and exit with its code."""
    make_app()(prog_name="edgeyolo")


def make_app() -> typer.Typer:
    """Build the command with every verb of this folder, in the order of each module's `PLACE`."""
    app = typer.Typer(
        help=_SUMMARY, epilog=_EXIT_CODES, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback()(_show_version)
    for name, module in sorted(_load_verbs().items(), key=lambda item: item[1].PLACE):
        app.command(name, rich_help_panel=module.PLACE[1])(getattr(module, name))
    return app


def list_verbs() -> list[str]:
    """Names of the verbs, sorted."""
    names = (found.name for found in pkgutil.iter_modules(folder.__path__))
    return sorted(name for name in names if not name.startswith("_") and name not in ("app", "console"))


def _load_verbs() -> dict[str, ModuleType]:
    return {name: importlib.import_module(f"{folder.__name__}.{name}") for name in list_verbs()}


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
