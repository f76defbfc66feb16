"""Names of the exported graph's inputs and outputs, the same in every engine."""

from __future__ import annotations

INPUT_NAME = "images"
ROW_NAMES = ("boxes_xyxy", "scores", "class_ids")  # of a graph that decodes its maps itself
ROWS_NAME = "rows"  # of a graph that does so for another program


def output_names(count: int) -> list[str]:
    """Names of `count` raw head maps in the order `ModelSpec.decode` states: "map_0", "map_1" ..."""
    return [f"map_{i}" for i in range(count)]
