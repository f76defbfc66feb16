"""`edgeyolo recipes`: the ways to calibrate that are known."""

from __future__ import annotations

import msgspec

from edgeyolo.cli.console import Json, reporting

PLACE = (10, "What there is")


def recipes(json: Json = False) -> None:
    """List the calibration recipes."""
    with reporting(json=json) as report:
        from edgeyolo.spec.recipe import list_recipes, load_recipe

        known = {name: load_recipe(name) for name in list_recipes()}
        report.show_table(
            ["recipe", "what it does", "observer", "pictures"],
            [(name, recipe.title, recipe.observer, recipe.count) for name, recipe in known.items()],
        )
        report.say("Next: edgeyolo quantize CHECKPOINT --data DATA --recipe NAME --out FOLDER")
        report.show_json([{"name": name, **msgspec.to_builtins(recipe)} for name, recipe in known.items()])
