"""The tables of docs/history.md, made by `make tables`: of what has been measured, and a line on what has not."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from typing import Any

from history import GENERATIONS, IOU_WEIGHTS, SWAPS
from record import RESULTS, ROOT

SEEDS = 3
OWN_WEIGHT = 2.5
NOT_YET = "not yet"


def load_runs() -> dict[str, Any]:
    """What `history.py` has found so far."""
    path = RESULTS / "history.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"runs": []}
    return found


def load_int8() -> dict[tuple[str, int], dict[str, Any]]:
    """What `history_int8.py` has found so far, by model and seed."""
    path = RESULTS / "history_int8.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return {(row["model"], row["seed"]): row for row in rows}


def load_figures() -> dict[str, Any]:
    """What `history_figures.py` has counted."""
    found: dict[str, Any] = json.loads((RESULTS / "history_figures.json").read_text(encoding="utf-8"))
    return found


def generations() -> tuple[list[str], list[list[str]]]:
    """One small network of each generation: size, cost, AP, and what int8 takes of it on test."""
    found, int8, rows = load_runs(), load_int8(), []
    for name, year in GENERATIONS.items():
        runs = _of(found, name)
        size = f"{runs[0]['parameters'] / 1e6:.1f}" if runs else ""
        millions = int8.get((name, 0), {}).get("millions")
        pairs = [(int8[name, run["seed"]], run) for run in runs if (name, run["seed"]) in int8]
        lost = [small["ap"]["test"] - run["ap"]["test"] for small, run in pairs]
        cost = f"{millions:.0f}" if millions else ""
        loss = f"{_mean(lost):+.1f}" if lost else NOT_YET if runs else ""
        rows.append([f"{name} ({year})", size, cost, str(len(runs)), *_scores(runs), loss])
    headings = ["network", "million parameters", "million instructions", "seeds", "AP on val", "on test"]
    return [*headings, "AP50 on test", "AP of seeds on test", "int8"], rows


def swaps() -> tuple[list[str], list[list[str]]]:
    """Each idea swapped alone, beside the same seeds without."""
    found, rows = load_runs(), []
    for name, swap in SWAPS.items():
        if swap.kind != "weight":
            rows.append([swap.kind, swap.model, swap.what, *_beside(found, name, swap.model)])
    return ["what", "of", "instead", "seeds", "AP on test", "with its own", "difference", "of single seeds"], rows


def weights() -> tuple[list[str], list[list[str]]]:
    """AP of ppyolo-tiny over the weight of the IoU in its loss."""
    found, rows = load_runs(), []
    for weight in IOU_WEIGHTS:
        runs = _of(found, "ppyolo-tiny" if weight == OWN_WEIGHT else f"loss-iou-{weight:g}")
        rows.append([f"{weight:g}", str(len(runs)), *_scores(runs)])
    return ["weight", "seeds", "AP on val", "on test", "AP50 on test", "AP of seeds on test"], rows


def rules() -> tuple[list[str], list[list[str]]]:
    """How many predictions answer for an object."""
    rows = []
    for row in load_figures()["rules"]:
        shares = " / ".join(f"{100 * share:.0f}" for share in row["by_level"])
        counts = [f"{row['mean']:.1f}", f"{row['median']:g}", str(row["most"]), str(row["without"])]
        rows.append([row["rule"], row["asks"], *counts, shares])
    headings = ["rule", "it asks for", "predictions per object", "median", "most", "objects without"]
    return [*headings, "% on strides 8 / 16 / 32"], rows


def fields() -> tuple[list[str], list[list[str]]]:
    """Receptive fields of each network's levels."""
    rows = []
    for row in load_figures()["fields"]:
        name = f"{row['model']}, trained" if row["trained"] else row["model"]
        theory = ", ".join(map(str, row["theoretical"])) + (" and the whole" if row["sees_all"] else "")
        rows.append([name, ", ".join(map(str, row["strides"])), theory, ", ".join(map(str, row["effective"]))])
    return ["network", "strides", "theoretical", "95 % of the gradient"], rows


def missing() -> str:
    """Which generations have fewer seeds than they are to have; a sentence."""
    found = load_runs()
    short = [name for name in GENERATIONS if len(_of(found, name)) < SEEDS]
    if not short:
        return f"Every network was trained from {SEEDS} seeds.\n"
    return f"Fewer than {SEEDS} seeds so far: {', '.join(f'`{name}`' for name in short)}.\n"


def sweep() -> str:
    """The plot of the weights, once they have been measured."""
    if not (ROOT / "docs/loss-weight.png").is_file():
        return "`python benchmarks/history_figures.py --sweep` draws it when all weights have been trained.\n"
    return "![AP over the weight of the IoU, each seed a point](loss-weight.png)\n"


def _of(found: dict[str, Any], row: str) -> list[dict[str, Any]]:
    return [run for run in found["runs"] if run["row"] == row]


def _scores(runs: list[dict[str, Any]]) -> list[str]:
    if not runs:
        return [NOT_YET, "", "", ""]
    on_test = [run["ap"]["test"] for run in runs]
    means = [_mean(run["ap"][split] for run in runs) for split in ("val", "test")]
    means.append(_mean(run["ap50"]["test"] for run in runs))
    return [*(f"{mean:.1f}" for mean in means), f"{min(on_test):.1f} to {max(on_test):.1f}"]


def _beside(found: dict[str, Any], row: str, model: str) -> list[str]:
    """Of the seeds that both have."""
    changed, own = ({run["seed"]: run["ap"]["test"] for run in _of(found, name)} for name in (row, model))
    seeds = sorted(changed.keys() & own.keys())
    if not seeds:
        return ["0", NOT_YET, "", "", ""]
    differences = [changed[seed] - own[seed] for seed in seeds]
    means = [_mean(scores[seed] for seed in seeds) for scores in (changed, own)]
    single = ", ".join(f"{difference:+.1f}" for difference in differences)
    return [str(len(seeds)), *(f"{mean:.1f}" for mean in means), f"{_mean(differences):+.1f}", single]


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
