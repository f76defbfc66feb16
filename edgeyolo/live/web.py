"""The thread in which clients are served: an event loop of its own, so that a caller needs none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
from collections.abc import Callable

from edgeyolo.live.routes import Routes
from edgeyolo.live.server import HttpServer, Limits

_CLOSE_S = 5.0


class Web:
    """Serves an app on a socket.

    Args:
        place: bound; closed together with this.
        on_refusal: is told the kind of each refusal.
    """

    def __init__(self, app: Routes, place: socket.socket, limits: Limits, on_refusal: Callable[[str], None]) -> None:
        self._app, self._place = app, place
        self._server = HttpServer(app, limits, app.headers(), on_refusal)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="edgeyolo-web", daemon=True)

    @property
    def connections(self) -> int:
        """That are open."""
        return self._server.connections

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Break off every client and end the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(concurrent.futures.TimeoutError):
                asyncio.run_coroutine_threadsafe(self._server.close(), self.loop).result(_CLOSE_S)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        self.loop.close()
        self._place.close()
        self._app.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._server.start(self._place))
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
