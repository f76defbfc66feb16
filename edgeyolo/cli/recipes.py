"""`edgeyolo recipes`: the ways to calibrate that are known."""

from __future__ import annotations

import msgspec

from edgeyolo.cli.console import Console

PANEL = "What there is"


def recipes(console: Console) -> None:
    """List the calibration recipes."""
    from edgeyolo.spec.recipe import list_recipes, load_recipe

    known = {name: load_recipe(name) for name in list_recipes()}
    console.show_table(
        ["recipe", "what it does", "observer", "pictures"],
        [(name, recipe.title, recipe.observer, recipe.count) for name, recipe in known.items()],
    )
    console.say("Next: edgeyolo quantize CHECKPOINT --data DATA --recipe NAME --out FOLDER")
    console.show_json([{"name": name, **msgspec.to_builtins(recipe)} for name, recipe in known.items()])
