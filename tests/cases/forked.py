"""Python programs that start quickly: forks of a process that has imported what takes long to import, none of it ours.

    python -S -E forked.py -m edgeyolo train ...     as `python -m edgeyolo train ...`; a script or -c will do, too

Each has a process, a folder, variables and streams of its own, as if it had been started anew. FORK_SERVER is the
address of the process that is forked, which is this file as well; see `quick_python` in tests/cases/quick_python.py.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

# Slow to import, and single-threaded when imported: a fork has no other thread than the one that forks.
SLOW = ("cv2", "torch", "torch._dynamo", "onnx", "onnxslim", "matplotlib.figure", "scipy.optimize", "rich.progress")
LONGEST_COMMAND = 1 << 20  # bytes, with its variables


def serve(listener: socket.socket) -> None:
    """Fork for whoever connects, for as long as the process that started this one is there."""
    parent = os.getppid()
    for name in SLOW:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for programs are not waited for
    listener.settimeout(1)
    while os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                wait_for(connection)
            connection.close()


def wait_for(connection: socket.socket) -> NoReturn:
    """Fork once more, become the program there, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.settimeout(None)
    raw, streams, _, _ = socket.recv_fds(connection, LONGEST_COMMAND, 3)
    program = os.fork()
    if program == 0:
        connection.close()
        become(json.loads(raw), streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(program)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(program, signal.SIGTERM)  # who asked for it was ended
    _, status = os.waitpid(program, 0)
    with contextlib.suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def become(told: dict[str, Any], streams: list[int]) -> NoReturn:
    """Be the program, and end as it does."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["variables"])
    sys.path[1:1] = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    importlib.invalidate_caches()
    code: Any = 0
    try:
        run(told["words"])
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    with contextlib.suppress(OSError):  # nobody reads on
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def run(words: list[str]) -> None:
    """What Python does with its arguments."""
    match words:
        case ["-m", module, *rest]:
            sys.argv, sys.path[0] = [module, *rest], str(Path.cwd())
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv, sys.path[0] = ["-c", *rest], ""
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case [script, *rest]:
            sys.argv, sys.path[0] = [script, *rest], str(Path(script).parent)
            runpy.run_path(script, run_name="__main__")


def ask(words: list[str]) -> int:
    """Have a program run with the streams, folder and variables of this process; its exit status."""
    told = {"words": words, "folder": str(Path.cwd()), "variables": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["FORK_SERVER"])
        socket.send_fds(connection, [json.dumps(told).encode()], [0, 1, 2])
        return int(connection.recv(16) or 1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(socket.socket(fileno=int(sys.argv[2])))
    else:
        sys.exit(ask(sys.argv[1:]))
