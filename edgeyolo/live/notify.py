"""systemd is told that we are ready, and from time to time that we are well; it restarts what falls silent.

Source: man sd_notify(3), "READY=1" and "WATCHDOG=1".
"""

from __future__ import annotations

import contextlib
import os
import socket


class Notifier:
    """Does nothing where systemd did not start us.

    Attributes:
        every_s: between two signs of life; None where none are wanted.
    """

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        wanted = os.environ.get("WATCHDOG_USEC", "")
        self.every_s = int(wanted) / 2e6 if wanted.isdecimal() and self._address else None

    def tell(self, state: str) -> None:
        """Such as "READY=1"."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
            wire.sendto(state.encode(), address)
