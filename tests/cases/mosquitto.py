"""A real MQTT broker on the loopback, which can be lost and come back; `tests/live/setup_mosquitto.py` fetches it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

SETUP = Path(__file__).parents[1] / "live" / "setup_mosquitto.py"


def find_mosquitto() -> tuple[str, str]:
    """Its program, and why there is none; one of the two is empty."""
    asked = subprocess.run([sys.executable, str(SETUP), "--where"], capture_output=True, text=True, check=False)
    return asked.stdout.strip(), asked.stderr.strip()


class Mosquitto:
    """The broker, on a port of its own; it keeps nothing over `stop` and `start`."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as place:
            self.port = place.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        self._program = program
        self.start()

    def start(self) -> None:
        """Until it answers."""
        command = [self._program, "-c", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(400):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError("the broker does not answer")

    def stop(self) -> None:
        """Gone, with all it knew."""
        self._process.terminate()
        self._process.wait(10)
