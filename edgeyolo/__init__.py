"""edgeyolo: from a labelled data set to an INT8 detector on a board, measured on what ships.

Importing this package imports neither torch nor OpenCV; the verbs load what they need when called.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "deploy",
    "estimate",
    "evaluate",
    "evaluate_tracks",
    "import_weights",
    "quantize",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from edgeyolo import verbs

        return getattr(verbs, name)
    raise AttributeError(f"module 'edgeyolo' has no attribute '{name}'")
