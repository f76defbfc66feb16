"""The wire: files that are gone on with, questions of ssh that nobody answers for it, and nothing left running."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeyolo.boards import agent
from edgeyolo.boards.wire import Address, Wire, at_board
from edgeyolo.spec.errors import AwayError, BoardError, UsageError

SIZE = 24 << 20


class Steps:
    """A progress that keeps what it is told, and may do something at a step."""

    def __init__(self, act: Callable[[int, int], object] = lambda done, total: None) -> None:
        self.told: list[tuple[int, int, str]] = []
        self._act = act

    def step(self, stage: str, done: int, total: int, text: str = "") -> None:
        self.told.append((done, total, text))
        self._act(done, total)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.eyb"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_a_board_tells_what_it_is(board) -> None:
    with Wire(board.address()) as wire:
        assert wire.facts["home"] == str(board.home)
        assert wire.facts["markers"]["python_version"] == "{}.{}".format(*sys.version_info)
        assert wire.facts["free_bytes"] > 0


def test_a_file_goes_on_where_the_connection_was_cut(board, file: Path) -> None:
    place = board.home / "there/model.eyb"
    cuts = iter([True])
    steps = Steps(lambda done, total: done > total // 2 and next(cuts, False) and board.drop())
    at_board(board.address(), lambda wire: wire.send(file, str(place)), reconnect_s=20, progress=steps)
    assert place.read_bytes() == file.read_bytes()
    again = next(i for i, (_, _, text) in enumerate(steps.told) if "trying again" in text)
    began_again = next(done for done, total, _ in steps.told[again:] if total)
    assert began_again > 1 << 20, "what had arrived is not sent again"
    assert [path.name for path in place.parent.iterdir()] == ["model.eyb"]


def test_a_file_that_is_there_is_not_sent(board, file: Path) -> None:
    steps = Steps()
    with Wire(board.address(), steps) as wire:
        wire.send(file, str(board.home / "model.eyb"))
        sent = len(steps.told)
        wire.send(file, str(board.home / "model.eyb"))
    assert len(steps.told) == sent > 0


def test_a_file_that_arrives_altered_is_not_kept(board, file: Path) -> None:
    """What lies there of it is of another file."""
    (board.home / "model.eyb.part").write_bytes(b"another")
    with Wire(board.address()) as wire:
        with pytest.raises(BoardError, match="arrived altered"):
            wire.send(file, str(board.home / "model.eyb"))
        assert not list(board.home.glob("model.eyb*"))
        wire.send(file, str(board.home / "model.eyb"))
    assert (
        hashlib.sha256((board.home / "model.eyb").read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest()
    )


def test_nothing_runs_on_when_the_connection_ends(board) -> None:
    mark = board.home / "alive"
    code = "import sys, time\nwhile True: open(sys.argv[1], 'w').write(str(time.time())); time.sleep(0.02)"
    wire = Wire(board.address())
    asking = threading.Thread(target=ask_in_vain, args=(wire, [sys.executable, "-c", code, str(mark)]))
    asking.start()
    wait_for(mark.exists)
    wire._ssh.kill()
    asking.join()
    wire.close()
    time.sleep(0.5)
    last = mark.read_text()
    time.sleep(0.2)
    assert mark.read_text() == last


def ask_in_vain(wire: Wire, words: list[str]) -> None:
    with pytest.raises(AwayError):
        wire.ask("run", words=words, environment={})


def test_nothing_runs_on_when_the_host_falls_silent(tmp_path: Path) -> None:
    """As when a computer sleeps or a cable is pulled, and no end of the connection ever comes."""
    program = Path(agent.__file__).read_text().replace("SILENCE_S = 60.0", "SILENCE_S = 0.5")
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
    )
    assert child.wait(timeout=20) == 1
    child.stdin.close()


def test_an_unknown_host_key_is_not_accepted(board) -> None:
    board.known_hosts.unlink()
    with pytest.raises(BoardError, match=r"Host key verification failed.*Run ssh with this host yourself") as caught:
        Wire(board.address())
    assert not isinstance(caught.value, AwayError)
    assert not board.known_hosts.exists()


def test_a_changed_host_key_is_not_accepted(board, make_board) -> None:
    other = make_board("other")
    key = other.known_hosts.read_text().split(" ", 1)[1]
    board.known_hosts.write_text(f"[127.0.0.1]:{board.port} {key}")
    with pytest.raises(BoardError, match="verification failed"):
        Wire(board.address())


@pytest.mark.parametrize(("answer", "is_known"), [("no", False), ("yes", True)])
def test_at_a_terminal_ssh_asks_itself(board, answer: str, is_known: bool) -> None:
    board.known_hosts.unlink()
    code = (
        "import sys; from pathlib import Path; from edgeyolo.boards.wire import Address, Wire, may_ask\n"
        "with Wire(Address(sys.argv[1], Path(sys.argv[2]), sys.executable, may_ask())) as wire: print('arrived')"
    )
    terminal, other_end = pty.openpty()
    # The shell, which begins a session, has as its terminal the first one that it opens.
    at_terminal = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(other_end)]
    command = [*at_terminal, sys.executable, "-c", code, board.name, str(board.ssh_config)]
    child = subprocess.Popen(command, start_new_session=True, stdin=other_end)  # so that it is there until it is opened
    os.close(other_end)
    said = b""
    try:
        while True:
            said += os.read(terminal, 4096)
            if said.rstrip().endswith(b"(yes/no/[fingerprint])?"):
                os.write(terminal, answer.encode() + b"\n")
    except OSError:  # the end of a terminal whose last process has gone
        pass
    os.close(terminal)
    child.wait()
    assert b"Are you sure you want to continue connecting" in said
    assert (b"arrived" in said) == is_known
    assert board.known_hosts.exists() == is_known


def test_a_board_that_is_not_there(board) -> None:
    board.stop()
    with pytest.raises(AwayError, match=r"board: is away.*refused"):
        at_board(board.address(), lambda wire: None, reconnect_s=60)


def test_a_login_that_is_refused_is_not_tried_again(board) -> None:
    (board.folder / "user_key.pub").write_text("")
    with pytest.raises(BoardError, match=r"Permission denied.*ssh-copy-id"):
        at_board(board.address(), lambda wire: None, reconnect_s=60)


@pytest.mark.parametrize(
    ("python", "message"),
    [("python9", "not found.*--board-python"), ("old", r"edgeyolo needs Python 3.10, this is 3.8.*--board-python")],
)
def test_a_board_without_a_python_that_will_do(board, python: str, message: str) -> None:
    if python == "old":
        python = str(board.home / "old")
        code = "import sys; sys.version_info = (3, 8, 10); exec(sys.argv.pop())"
        Path(python).write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$3"\n')
        Path(python).chmod(0o755)
    with pytest.raises(BoardError, match=message):
        Wire(board.address(python))


def test_what_a_login_says_is_not_taken_for_an_answer(board) -> None:
    python = board.home / "talkative"
    python.write_text(f'#!/bin/sh\necho Welcome; echo \'{{"greeting": "no"}}\'\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with Wire(board.address(str(python))) as wire:
        assert wire.facts["home"] == str(board.home)


def test_words_are_not_read_by_a_shell(board) -> None:
    """Neither what runs on the board nor the name of a host."""
    words = ["printf", "%s|", "a b", "$(touch x)", "'; touch x; '", "*"]
    with Wire(board.address()) as wire:
        assert wire.ask("run", words=words, environment={})["out"] == "a b|$(touch x)|'; touch x; '|*|"
    assert not (board.home / "x").exists()
    with pytest.raises(UsageError, match="is no host"):
        Address("-oProxyCommand=touch x").command()


def wait_for(happens: Callable[[], bool]) -> None:
    for _ in range(200):
        if happens():
            return
        time.sleep(0.05)
    pytest.fail("waited for 10 s")
