"""Python for programs that a test starts and waits for, without the seconds that it takes to import torch."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

FORKED = Path(__file__).with_name("forked.py")


@pytest.fixture(scope="session")
def quick_python() -> Iterator[list[str]]:
    """The words of a command that stand for `python`. A program that is killed, or that must not find torch imported,
    wants `sys.executable`."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = f"{folder}/fork"
        listener.bind(address)
        listener.listen(64)
        number = listener.fileno()
        server = subprocess.Popen([sys.executable, str(FORKED), "serve", str(number)], pass_fds=[number])
        try:
            yield ["/usr/bin/env", f"FORK_SERVER={address}", sys.executable, "-S", "-E", str(FORKED)]
        finally:
            server.terminate()
            server.wait()
