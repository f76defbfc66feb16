"""In: an ONNX detector that others have exported, and what is known of it. Out: a graph as our own export writes it.

Verb: `read_foreign`, then `plain_graph`, `describe`, `with_outputs`. Whatever the rest of the tool could not carry is
refused here, by operator and node.
"""

from edgeyolo.graph.foreign.describe import Described, Guess, describe
from edgeyolo.graph.foreign.outputs import with_outputs
from edgeyolo.graph.foreign.plain import plain_graph
from edgeyolo.graph.foreign.reading import read_foreign

__all__ = ["Described", "Guess", "describe", "plain_graph", "read_foreign", "with_outputs"]
