"""`edgeyolo targets`: the boards that are known."""

from __future__ import annotations

import msgspec

from edgeyolo.cli.console import Console

PANEL = "What there is"


def targets(console: Console) -> None:
    """List the boards."""
    from edgeyolo.backends import list_engines
    from edgeyolo.spec.target import list_targets, load_target

    engines = list_engines()
    known = {name: load_target(name) for name in list_targets()}
    console.show_table(
        ["target", "board", "engine", "precisions"],
        [
            (
                name,
                target.title,
                target.engine if target.engine in engines else f"{target.engine} (not in this edgeyolo)",
                ", ".join(target.precisions),
            )
            for name, target in known.items()
        ],
    )
    console.say("Next: edgeyolo deploy SOURCE --target NAME --out NAME.eyb")
    console.show_json([{"name": name, **msgspec.to_builtins(target)} for name, target in known.items()])
