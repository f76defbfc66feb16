"""Boards: real SSH servers on the loopback, each with a home of its own, run by whoever runs the tests.

EDGEYOLO_REQUIRE_SSHD=1 makes their absence a failure instead of a skip, as `make test-remote` does.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from empty_wheels import write_wheel
from packaging.requirements import Requirement

from edgeyolo.boards.wire import Address

HERE = Path(__file__).parent
TEMPLATE = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PidFile none
"""
CLIENT = """\
Host {name}
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
"""


class Board:
    """An SSH server with a home that no other has.

    Attributes:
        name: what ssh calls it, with the configuration `ssh_config`.
        home: of its only user.
    """

    def __init__(self, sshd: Path, folder: Path, name: str, *, prefix: tuple[str, ...] = ()) -> None:
        self.name, self.home, self.folder = name, folder / "home", folder
        self.ssh_config, self.known_hosts = folder / "ssh_config", folder / "known_hosts"
        self._sshd, self._prefix = sshd, prefix
        self.home.mkdir(parents=True)
        for key in ("host_key", "user_key"):
            self.keygen(key)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        user = f"{os.getuid()}:{os.getgid()}::{self.home}:/bin/sh"
        login = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "passwd").write_text(f"{login}:x:{user}\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n")
        (folder / "group").write_text(f"{login}:x:{os.getgid()}:\n")
        (folder / "sshd_config").write_text(TEMPLATE.format(port=self.port, folder=folder))
        self.ssh_config.write_text(CLIENT.format(name=name, port=self.port, folder=folder))
        host_key = (folder / "host_key.pub").read_text().rsplit(" ", 1)[0]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        self.start()

    def keygen(self, name: str) -> None:
        """Make a key, in place of one of that name."""
        (self.folder / name).unlink(missing_ok=True)
        command = [
            str(self._sshd.parent / "ssh-keygen"),
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            str(self.folder / name),
        ]
        subprocess.run(command, check=True)

    def address(self, python: str = sys.executable) -> Address:
        """How it is reached."""
        return Address(self.name, self.ssh_config, python)

    def start(self) -> None:
        """Switch it on."""
        wrapper = next(self._sshd.parents[1].glob("root/usr/lib/*/libnss_wrapper.so"))
        environment = os.environ | {
            "LD_PRELOAD": str(wrapper),
            "NSS_WRAPPER_PASSWD": str(self.folder / "passwd"),
            "NSS_WRAPPER_GROUP": str(self.folder / "group"),
        }
        command = [*self._prefix, str(self._sshd), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("a") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        for _ in range(100):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        pytest.fail((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        """Take the power away: the server and all that runs on the board ends at once."""
        for number in [*list_descendants(self._process.pid), self._process.pid]:
            kill(number)
        self._process.wait()

    def drop(self) -> None:
        """Cut the connections that there are."""
        for number in list_children(self._process.pid):
            kill(number)


def kill(number: int) -> None:
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        return


def list_children(parent: int) -> list[int]:
    """Processes that a process started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def list_descendants(parent: int) -> list[int]:
    """Those, and what they started."""
    children = list_children(parent)
    return [*children, *(number for child in children for number in list_descendants(child))]


@pytest.fixture(scope="session")
def sshd() -> Path:
    """The SSH server's program."""
    command = [sys.executable, str(HERE / "setup_sshd.py"), "--where"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0 and os.environ.get("EDGEYOLO_REQUIRE_SSHD"):
        pytest.fail(asked.stderr)
    if asked.returncode != 0:
        pytest.skip(f"no SSH server here (make test-remote fetches it): {asked.stderr.strip()}")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where the server, as root, locks up what it does before a login
    folder = Path(asked.stdout.strip()) / "bin"
    if shutil.which("ssh") is None:
        os.environ["PATH"] += f":{folder}"
    return folder / "sshd"


@pytest.fixture
def make_board(sshd: Path, tmp_path: Path) -> Iterator[Callable[..., Board]]:
    """Switches on another board; all are switched off at the end."""
    boards = []

    def make(name: str, **how: object) -> Board:
        boards.append(Board(sshd, tmp_path / name, name, **how))
        return boards[-1]

    yield make
    for board in boards:
        board.stop()


@pytest.fixture
def board(make_board: Callable[..., Board]) -> Board:
    """One board."""
    return make_board("board")


@pytest.fixture
def python_on_arm(tmp_path: Path) -> Path:
    """The board's Python where it has an emulated ARM core; it sees no package but those that it is given."""
    command = [sys.executable, str(HERE.parent / "arm/setup_arm.py"), "--where"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0 and os.environ.get("EDGEYOLO_REQUIRE_ARM"):
        pytest.fail(asked.stderr)
    if asked.returncode != 0:
        pytest.skip(f"emulated ARM is not set up (make test-remote does it): {asked.stderr.strip()}")
    python = tmp_path / "python-on-arm"
    python.write_text(f'#!/bin/sh\nQEMU_CPU=cortex-a72 exec {asked.stdout.strip()} -S "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """Empty wheels of all that edgeyolo asks for: for boards whose Python has the packages already."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    for line in importlib.metadata.requires("edgeyolo"):
        name = Requirement(line).name
        if not (folder / f"{name.replace('-', '_')}-9999-py3-none-any.whl").exists():
            write_wheel(folder, name)
    return folder
