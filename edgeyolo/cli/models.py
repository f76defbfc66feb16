"""`edgeyolo models`: the detectors that can be trained."""

from __future__ import annotations

from dataclasses import asdict

from edgeyolo.cli.console import Console

PANEL = "What there is"


def models(console: Console) -> None:
    """List the models with their parameters and cost."""
    from edgeyolo.models import list_models

    known = list_models()
    console.show_table(
        [
            "model",
            "family",
            "parameters (training)",
            "parameters (deploy)",
            "GFLOPs",
            "at pixels",
            "licence of weights",
        ],
        [
            (m.name, m.family, m.parameters_training, m.parameters_deploy, m.gflops, m.image_size, m.licence)
            for m in known
        ],
    )
    console.say("Next: edgeyolo train --model NAME --data DATA --out FOLDER")
    console.show_json([asdict(info) for info in known])
