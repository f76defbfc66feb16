"""`edgeyolo targets`: the boards that are known."""

from __future__ import annotations

import msgspec

from edgeyolo.cli.console import Json, reporting

PLACE = (9, "What there is")


def targets(json: Json = False) -> None:
    """List the boards."""
    with reporting(json=json) as report:
        from edgeyolo.spec.target import list_targets, load_target

        known = {name: load_target(name) for name in list_targets()}
        report.show_table(
            ["target", "board", "engine", "precisions"],
            [(name, target.title, target.engine, ", ".join(target.precisions)) for name, target in known.items()],
        )
        report.say("Next: edgeyolo deploy SOURCE --target NAME --out NAME.eyb")
        report.show_json([{"name": name, **msgspec.to_builtins(target)} for name, target in known.items()])
