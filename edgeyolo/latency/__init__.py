"""In: a network's convolutions, its time on this computer if it runs here, and a board. Out: an `Estimate`, a range.

Verb: `estimate`, `time_here`. A board is a TOML in `boards/`: what others measured on it and published.
"""

from edgeyolo.latency.boards import Board, boards_of, list_boards, load_board
from edgeyolo.latency.estimate import Network, estimate
from edgeyolo.latency.here import time_here
from edgeyolo.spec.latency import Estimate

__all__ = ["Board", "Estimate", "Network", "boards_of", "estimate", "list_boards", "load_board", "time_here"]
