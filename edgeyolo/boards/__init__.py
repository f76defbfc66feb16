"""In: a host that ssh knows, and a bundle. Out: what the board measured; a bundle in its place. Verb: `at_board`."""

from edgeyolo.boards.wire import Wire, at_board

__all__ = ["Wire", "at_board"]
