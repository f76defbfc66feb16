"""`edgeyolo models`: the networks that can be trained."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import msgspec

from edgeyolo.cli.console import Console
from edgeyolo.cli.estimate import show_ms
from edgeyolo.spec.latency import ModelsOptions

if TYPE_CHECKING:
    from edgeyolo.models import ModelInfo
    from edgeyolo.spec.latency import Estimate

PANEL = "What there is"


def models(console: Console, options: ModelsOptions) -> None:
    """List the models with their parameters and cost."""
    from edgeyolo.models import list_models

    board = None if options.target is None else _board_of(options.target)
    known = list_models()
    estimates = {} if board is None else _estimate(known, board)
    if estimates:
        known = sorted(known, key=lambda info: estimates[info.name].middle_ms)
    columns = ["model", "family", "task", "parameters (training)", "parameters (deploy)", "GFLOPs", "at pixels"]
    rows = [
        (m.name, m.family, m.task, m.parameters_training, m.parameters_deploy, m.gflops, m.image_size, m.licence)
        for m in known
    ]
    if estimates:
        one = next(iter(estimates.values()))
        spans = {name: f"{show_ms(found.low_ms)} to {show_ms(found.high_ms)}" for name, found in estimates.items()}
        rows = [(*row[:-1], spans[row[0]], row[-1]) for row in rows]  # type: ignore[misc]
        columns.append(f"ms in {one.precision}, estimated")
    console.show_table([*columns, "licence of weights"], rows)
    if estimates:
        console.say(f"On {one.title}: the network alone, {one.method}; {one.coverage:.0%} are in such a range")
    console.say("Next: edgeyolo train --model NAME --data DATA --out FOLDER")
    console.show_json([_record(info, estimates) for info in known])


def _board_of(target: str) -> str:
    from edgeyolo.latency import boards_of
    from edgeyolo.spec.errors import UsageError

    board, *others = boards_of(target)
    if others:
        raise UsageError(f"{target} is several boards", hint=f"Name one of them: {', '.join([board, *others])}")
    return board


def _estimate(known: list[ModelInfo], board: str) -> dict[str, Estimate]:
    """Of each model in int8, at the size that it is meant for."""
    from edgeyolo.latency import Network, estimate
    from edgeyolo.models import convolutions_of

    return {
        info.name: estimate(Network([replace(one, is_int8=True) for one in convolutions_of(info.name)], "int8"), board)
        for info in known
    }


def _record(info: ModelInfo, estimates: dict[str, Estimate]) -> dict[str, Any]:
    found = estimates.get(info.name)
    return asdict(info) if found is None else asdict(info) | {"estimate": msgspec.to_builtins(found)}
