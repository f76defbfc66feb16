"""A process that runs Rockchip's toolkit: it may print a lot, hang or die; what comes back is an answer or an error."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeyolo.backends.rknn import worker
from edgeyolo.spec.errors import BackendError, EngineCrashError

START_LIMIT_S, BUILD_LIMIT_S, RUN_LIMIT_S = 120.0, 1800.0, 120.0
_MOST_BYTES = 1 << 30  # of one array that comes back
_TAIL_LINES = 6
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Of what it prints: information, warnings, bars, its version, and the body of a traceback.
_NOT_TELLING = re.compile(
    r"[IW] |.*%\||.*rknn-toolkit2 version|compress=| {2,4}\S|\s*\^+$|.*Traceback \(|During handling"
)


class ToolkitProcess:
    """The toolkit, running; not for several threads at once.

    Args:
        packages: folder that holds the toolkit and what it needs.

    Attributes:
        version: of the toolkit.

    Raises:
        EngineCrashError: it dies while it starts. BackendError: it does not import.
    """

    def __init__(self, packages: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgeyolo-rknn-")
        here = Path(self._folder.name) / "here"  # the toolkit puts ../base on its path, which is not to be anybody's
        here.mkdir()
        self._log = Path(self._folder.name) / "log"
        command = [sys.executable, "-I", "-S", str(worker.__file__), str(packages.resolve()), str(os.getpid())]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        self._end = weakref.finalize(self, _end, self._process, self._folder)
        done, _ = self.ask("hello", limit_s=START_LIMIT_S)
        self.version: str = done["version"]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(
        self, do: str, *, limit_s: float, image: npt.NDArray[np.float32] | None = None, **told: object
    ) -> tuple[dict[str, Any], list[npt.NDArray[np.float32]]]:
        """What the worker's function `do` gives.

        Raises:
            BackendError: the toolkit refuses, or takes longer than the limit, which ends it. EngineCrashError: it died.
        """
        if self._process.returncode is not None or not self._end.alive:
            raise BackendError("the session is closed", hint="Open the artefact again")
        os.truncate(self._log, 0)
        files = [] if image is None else [_npy(image)]
        question = {"do": do, "arrays": [len(file) for file in files], **told}
        late = threading.Event()

        def stop() -> None:
            late.set()
            _kill(self._process)

        timer = threading.Timer(limit_s, stop)
        timer.start()
        try:
            answer, arrays = self._exchange(json.dumps(question).encode() + b"\n" + b"".join(files))
        except (OSError, ValueError, EOFError):
            said = self._quoted()
            _kill(self._process)
            code = self._process.wait()
            self.close()
            if late.is_set():
                raise BackendError(
                    f"Rockchip's toolkit did not end '{do}' within {limit_s:g} s and was stopped{said}"
                ) from None
            raise EngineCrashError(f"Rockchip's toolkit died in '{do}' ({_describe_end(code)}){said}") from None
        finally:
            timer.cancel()
        if "refused" in answer:
            raise BackendError(f"Rockchip's toolkit {answer['refused']}{self._quoted()}")
        return answer["done"], arrays

    def close(self) -> None:
        """End the process; closing twice is harmless."""
        self._end()

    def _exchange(self, question: bytes) -> tuple[dict[str, Any], list[npt.NDArray[np.float32]]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(question)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        arrays = []
        for length in answer["arrays"]:
            raw = self._process.stdout.read(length) if 0 < length <= _MOST_BYTES else b""
            if len(raw) != length:
                raise EOFError
            arrays.append(np.load(io.BytesIO(raw), allow_pickle=False))
        return answer, arrays

    def said(self) -> list[str]:
        """The lines that the toolkit has printed since the last question."""
        text = _COLOURS.sub("", self._log.read_text(encoding="utf-8", errors="replace"))
        return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]

    def _quoted(self) -> str:
        """The end of what tells something, for an error."""
        lines = self.said()
        told = [line.removeprefix("E ") for line in lines if not _NOT_TELLING.match(line)] or lines
        return ". It said:\n" + "\n".join(list(dict.fromkeys(told))[-_TAIL_LINES:]) if told else ""


def _npy(image: npt.NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, image, allow_pickle=False)
    return file.getvalue()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    if process.poll() is None:
        _kill(process)
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # a question that nobody read
            stream.close()  # type: ignore[union-attr]
    folder.cleanup()


def _describe_end(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
