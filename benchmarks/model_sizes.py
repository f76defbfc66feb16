"""Counts the parameters and the GFLOPs of every model, and writes them down beside the registry, for `list_models`.

python benchmarks/model_sizes.py
"""

from __future__ import annotations

import json

from edgeyolo.models import SIZES, ModelInfo, measure_model, model_names
from edgeyolo.spec.atomic import write_file


def main() -> None:
    """Write the file anew, a line for each model."""
    lines = [f"{json.dumps(name)}: {json.dumps(numbers_of(measure_model(name)))}" for name in model_names()]
    write_file(SIZES, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def numbers_of(info: ModelInfo) -> tuple[int, int, float]:
    """Parameters of the training and of the deploy form, and GFLOPs."""
    return info.parameters_training, info.parameters_deploy, info.gflops


if __name__ == "__main__":
    main()
