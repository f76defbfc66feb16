"""One connection to a board, over the OpenSSH of whoever uses it: their keys, agents, jump hosts and known hosts.

A connection is one `ssh` with the program `agent.py` at its other end, so there is one login, one question of ssh's if
it has one, and nothing that outlives the connection.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edgeyolo.boards.agent import GREETING
from edgeyolo.spec.errors import AwayError, BoardError, MissingPackageError, OutputError, UsageError
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.spec.provenance import sha256_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PING_S = 5.0
_PIECE_BYTES = 1 << 18
_MOST_CONNECTIONS = 8  # to a board that goes away again and again
_PAUSE_S = 1.0
_ALIVE = ("ConnectTimeout=20", "ServerAliveInterval=10", "ServerAliveCountMax=3")
_START = (
    'import sys; sys.version_info >= (3, 10) or sys.exit("edgeyolo needs Python 3.10, this is %d.%d" % '
    "sys.version_info[:2]); exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"
)
# What ssh says where nothing is to be gained by trying again, and what to do.
_REFUSALS = {
    "Host key verification failed": "Run ssh with this host yourself: it shows the key, to be compared and accepted",
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "Find out why the key is another one before you go on",
    "Permission denied": "ssh with this host must log in without a question here: ssh-copy-id, or an agent",
    "Bad configuration option": "Mend the configuration of ssh",
    "Can't open user config file": "Check --ssh-config",
    "edgeyolo needs Python": "Name a newer one that is on the board: --board-python python3.11",
    "not found": "Install Python 3.10 or newer on the board, or name it: --board-python",
    "Unknown command": "Name the board's Python: --board-python",
}


@dataclass(frozen=True)
class Address:
    """How a board is reached.

    Attributes:
        host: user@board, or a name of the ssh configuration.
        ssh_config: in place of the user's own, None for that.
        python: on the board.
        may_ask: whether ssh may ask its questions at the terminal; only one board at a time can.
    """

    host: str
    ssh_config: Path | None = None
    python: str = "python3"
    may_ask: bool = False

    def command(self) -> list[str]:
        """The `ssh` that starts the agent.

        Raises:
            UsageError: a host that ssh would take for an option.
        """
        if not self.host or self.host.startswith("-"):
            raise UsageError(
                "is no host", where=f"--host {self.host}", hint="Write user@board, or a name that ssh knows"
            )
        options = [part for option in _ALIVE for part in ("-o", option)]
        if not self.may_ask:
            options += ["-o", "BatchMode=yes"]
        if self.ssh_config is not None:
            options += ["-F", str(self.ssh_config)]
        start = " ".join(shlex.quote(word) for word in (self.python, "-u", "-c", _START))
        return ["ssh", "-T", "-a", "-x", *options, "--", self.host, start]


def may_ask() -> bool:
    """Whether somebody is there whom ssh can ask."""
    return sys.stdin is not None and sys.stdin.isatty()


class Wire:
    """A connection; a context manager.

    Attributes:
        facts: what the board says of itself, see `agent.describe`.

    Raises:
        AwayError: it does not answer. BoardError: ssh refuses, or there is no usable Python. MissingPackageError: ssh
            is not installed here.
    """

    def __init__(self, address: Address, progress: Progress = SILENT) -> None:
        self.address = address
        self._progress = progress
        self._said: deque[str] = deque(maxlen=20)
        self._writing = threading.Lock()
        self._closed = threading.Event()
        try:
            self._ssh = subprocess.Popen(
                address.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except FileNotFoundError:
            raise MissingPackageError(
                "ssh", needed_for="boards at the end of a wire", install="OpenSSH's client"
            ) from None
        assert self._ssh.stdin and self._ssh.stdout and self._ssh.stderr
        self._stdin, self._stdout = self._ssh.stdin, self._ssh.stdout
        self._listener = threading.Thread(target=self._listen_to_ssh, args=(self._ssh.stderr,), daemon=True)
        self._listener.start()
        try:
            program = Path(__file__).with_name("agent.py").read_bytes()
            self._send(b"%d\n%b" % (len(program), program))
            self.facts = self._read_greeting()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._ping, daemon=True).start()

    def ask(self, do: str, **fields: object) -> dict[str, Any]:
        """Have the agent do something, and wait for its answer; what it tells people meanwhile goes to the progress.

        Raises:
            AwayError: the connection ended. OutputError: the board's disk is full. BoardError: it could not be done.
        """
        self._send(json.dumps({"do": do, **fields}).encode() + b"\n")
        return self._read_answer()

    def send(self, path: Path, place: str) -> None:
        """Copy a file to `place` on the board, unless it is there; a copy that was cut short goes on. Errors: `ask`."""
        size = path.stat().st_size
        answer = self.ask("offer", path=place, sha256=sha256_of(path), size=size)
        if answer["done"]:
            return
        have = answer["have"]
        with path.open("rb") as stream:
            stream.seek(have)
            while piece := stream.read(_PIECE_BYTES):
                self._send(json.dumps({"do": "data", "bytes": len(piece)}).encode() + b"\n" + piece)
                have += len(piece)
                self._progress.step(f"{self.address.host}: {path.name}", have, size)
        self.ask("keep")

    def close(self) -> None:
        """End the connection, and with it whatever runs at its other end."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._ssh.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()
        self._listener.join()
        self._stdout.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, raw: bytes) -> None:
        try:
            with self._writing:
                self._stdin.write(raw)
                self._stdin.flush()
        except (OSError, ValueError):
            raise self._explain() from None

    def _ping(self) -> None:
        while not self._closed.wait(_PING_S):
            try:
                self._send(b'{"do": "ping"}\n')
            except BoardError:
                return

    def _read_greeting(self) -> dict[str, Any]:
        """The agent's first line; whatever the login says before it is not ours."""
        while line := self._stdout.readline():
            with contextlib.suppress(ValueError):
                facts = json.loads(line)
                if isinstance(facts, dict) and facts.get("greeting") == GREETING:
                    return facts
        raise self._explain()

    def _read_answer(self) -> dict[str, Any]:
        while line := self._stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            if "line" in answer:
                self._progress.step(self.address.host, 0, 0, answer["line"])
            elif "error" in answer:
                raise self._error_of(answer)
            else:
                return answer
        raise self._explain()

    def _error_of(self, answer: dict[str, Any]) -> BoardError | OutputError:
        where = f"{self.address.host}: {answer['where']}" if answer["where"] else self.address.host
        if answer["errno"] in (errno.ENOSPC, errno.EDQUOT):
            hint = (
                "Make room on the board, or remove what edgeyolo keeps there (--clean); what was installed is as it was"
            )
            return OutputError(f"the board's disk is full ({answer['error']})", where=where, hint=hint)
        return BoardError(answer["error"], where=where)

    def _listen_to_ssh(self, lines: Any) -> None:
        for raw in lines:
            line = raw.decode(errors="replace").rstrip()
            self._said.append(line)
            logger.info("%s: %s", self.address.host, line)
        lines.close()

    def _explain(self) -> BoardError:
        """Why the connection ended, by what ssh said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._ssh.wait(timeout=5)
        self._listener.join(timeout=5)
        said = "; ".join(line for line in self._said if line and not line.startswith("@@@"))
        for words, hint in _REFUSALS.items():
            if words in said:
                return BoardError(f"cannot be used: {said}", where=self.address.host, hint=hint)
        return AwayError(f"is away ({said or 'the connection ended'})", where=self.address.host)


def at_board(address: Address, job: Callable[[Wire], T], *, reconnect_s: float, progress: Progress = SILENT) -> T:
    """Do something at a board, again from its beginning where the connection ends in the middle.

    Args:
        job: leaves alone what it finds done.
        reconnect_s: how long a board that was there is waited for. One that never was is not.

    Raises:
        AwayError: it is not there, or did not come back. Whatever `job` raises.
    """
    connections, lost_s = 0, None
    while True:
        before = connections
        try:
            with Wire(address, progress) as wire:
                connections += 1
                return job(wire)
        except AwayError as error:
            now_s = time.monotonic()
            lost_s = now_s if connections > before else lost_s
            if lost_s is None or now_s - lost_s >= reconnect_s or connections >= _MOST_CONNECTIONS:
                raise
            progress.step(address.host, 0, 0, f"{error.what}; trying again")
            time.sleep(_PAUSE_S)
