"""Options of what runs on boards over ssh, and the file that lists a fleet of them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeyolo.spec.settings import NotNegative


class HostOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Boards at the end of a wire, and how they are reached.

    Attributes:
        host: do it on this board, user@board or a name of your ssh configuration; may be given again.
        ssh_config: configuration for ssh in place of your own.
        board_python: Python on the board, 3.10 or newer.
        wheelhouse: folder of wheels for the board, where this computer has no package index; downloaded if not given.
        reconnect: seconds for which a board that goes away in the middle is tried again.
        clean: afterwards remove from the board what edgeyolo put there; installed bundles stay.
    """

    host: tuple[str, ...] = ()
    ssh_config: Path | None = None
    board_python: str = "python3"
    wheelhouse: Path | None = None
    reconnect: NotNegative = 60.0
    clean: bool = False


class InstallOptions(HostOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where `deploy` puts the bundle.

    Attributes:
        rollback: on every host, go back to what a bundle of this name replaced; nothing is built.
    """

    rollback: bool = False


class FleetOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Many boards at once.

    Attributes:
        fleet: file that lists boards; each runs what fits it.
        table: JSON file with a row per board and model, which a second run goes on with; beside the fleet's file if not
            given.
    """

    fleet: Path | None = None
    table: Path | None = None


class FleetBoard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A section of the fleet's file.

    Attributes:
        host: as for `--host`.
        target: name of the board's kind, as `edgeyolo targets` lists them.
        python, wheelhouse, ssh_config: as the options `--board-python`, `--wheelhouse` and `--ssh-config`; paths are
            beside the file.
        threads: of the engine, 0 for the bundle's number.
    """

    host: str
    target: str
    python: str = "python3"
    wheelhouse: str = ""
    ssh_config: str = ""
    threads: int = 0
