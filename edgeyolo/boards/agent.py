"""The program at the board's end of the wire: requests come in on standard input, answers go out on standard output.

It is sent as text and run by the board's own Python, so it imports nothing but Python's library. A request is a line of
JSON, `{"do": NAME, ...}`, one with "bytes" is followed by so many of a file. It ends, and what it runs with it, as soon
as the connection does: when its input ends, or stays silent for longer than a host that is alive would be.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import queue
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GREETING = "edgeyolo-agent-1"
SILENCE_S = 60.0  # a host that is alive says something every few seconds

_SPARE_BYTES = 16 << 20  # left free on the disk: what runs there writes a little, too
_QUEUED = 16  # requests, and pieces of a file, that wait while the disk is slow
_running: list[subprocess.Popen[str]] = []
_speaking = threading.Lock()


def main() -> None:
    """Answer requests until the host has gone."""
    requests: queue.Queue[tuple[dict[str, Any], bytes]] = queue.Queue(_QUEUED)
    heard_s = [time.monotonic()]
    threading.Thread(target=_listen, args=(requests, heard_s), daemon=True).start()
    threading.Thread(target=_watch, args=(requests, heard_s), daemon=True).start()
    say({"greeting": GREETING, **describe()})
    upload = Upload()
    verbs: dict[str, Callable[..., dict[str, Any] | None]] = {
        "offer": upload.offer,
        "data": upload.add,
        "keep": upload.keep,
        "lacking": lacking,
        "unpack": unpack,
        "run": run,
        "switch": switch,
        "back": back,
        "clean": clean,
    }
    while True:
        request, data = requests.get()
        verb = verbs[request.pop("do")]
        try:
            answer = verb(data) if data else verb(**request)
        except OSError as error:
            answer = {"error": error.strerror or str(error), "errno": error.errno or 0, "where": error.filename or ""}
        except (ValueError, zipfile.BadZipFile) as error:
            answer = {"error": str(error), "errno": 0, "where": ""}
        if answer is not None:
            say(answer)


def say(answer: dict[str, Any]) -> None:
    """Send one line; end where nobody takes it."""
    try:
        with _speaking:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    except OSError:
        end()


def end() -> None:
    """Stop what runs, and this."""
    for child in _running:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
    os._exit(1)


def _listen(requests: queue.Queue[tuple[dict[str, Any], bytes]], heard_s: list[float]) -> None:
    stdin = sys.stdin.buffer
    while line := stdin.readline():
        heard_s[0] = time.monotonic()
        request = json.loads(line)
        data = stdin.read(request.pop("bytes", 0))
        heard_s[0] = time.monotonic()
        if request["do"] != "ping":
            requests.put((request, data))
    end()


def _watch(requests: queue.Queue[tuple[dict[str, Any], bytes]], heard_s: list[float]) -> None:
    while time.monotonic() - heard_s[0] < SILENCE_S or requests.full():
        time.sleep(1)
    end()


def describe() -> dict[str, Any]:
    """What wheels and bundles have to fit: this Python, the processor, and the room on the disk."""
    place = _place()
    place.mkdir(parents=True, exist_ok=True)
    model = Path("/proc/device-tree/model")
    version = platform.python_version()
    return {
        "home": str(Path.home()),
        "place": str(place),
        "board": model.read_text(errors="replace").strip("\0\n ") if model.is_file() else "",
        "bits": struct.calcsize("P") * 8,
        "libc": list(platform.libc_ver()),
        "free_bytes": shutil.disk_usage(place).free,
        "markers": {
            "implementation_name": sys.implementation.name,
            "implementation_version": version,
            "os_name": os.name,
            "platform_machine": platform.machine(),
            "platform_python_implementation": platform.python_implementation(),
            "platform_release": platform.release(),
            "platform_system": platform.system(),
            "platform_version": platform.version(),
            "python_full_version": version,
            "python_version": ".".join(version.split(".")[:2]),
            "sys_platform": sys.platform,
        },
    }


def _place() -> Path:
    """What edgeyolo keeps on this board and may delete, all of it, at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeyolo" / "boards"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait while another connection changes or measures something here, which would disturb both."""
    _place().mkdir(parents=True, exist_ok=True)
    with (_place() / "lock").open("w") as lock:
        for waited in range(1 << 30):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    say({"line": "another run of edgeyolo is at work on this board; waiting for it"})
                time.sleep(0.5)
        yield


class Upload:
    """A file that comes in pieces, beside its place until it is whole; what there is of it is not sent again."""

    def __init__(self) -> None:
        self._path = self._part = Path()
        self._sha256 = ""
        self._failed: OSError | None = None

    def offer(self, path: str, sha256: str, size: int) -> dict[str, Any]:
        """How much of it is here, and whether it is in its place already."""
        self._path, self._part, self._sha256, self._failed = Path(path), Path(f"{path}.part"), sha256, None
        if self._path.is_file():
            return {"have": size, "done": True}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        have = self._part.stat().st_size if self._part.is_file() else 0
        if have > size:
            self._part.unlink()
            have = 0
        needed, free = size - have + _SPARE_BYTES, shutil.disk_usage(self._path.parent).free
        if needed > free:
            self._part.unlink(missing_ok=True)
            raise OSError(errno.ENOSPC, f"{needed >> 20} MiB are needed, and {free >> 20} MiB are free", path)
        return {"have": have, "done": False}

    def add(self, data: bytes) -> None:
        """Write a piece; a failure is told at the end."""
        if self._failed is None:
            try:
                with self._part.open("ab") as stream:
                    stream.write(data)
            except OSError as error:
                self._failed = error
                self._part.unlink(missing_ok=True)

    def keep(self) -> dict[str, Any]:
        """Put the whole file in its place, if it is the one that was meant."""
        if self._failed is not None:
            raise self._failed
        digest = hashlib.sha256()
        with self._part.open("rb+") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
            os.fsync(stream.fileno())
        if digest.hexdigest() != self._sha256:
            self._part.unlink()
            raise ValueError(f"{self._path.name} arrived altered")
        self._part.replace(self._path)
        return {}


def lacking(archives: list[str]) -> dict[str, Any]:
    """Which of the archives, by digest, are not unpacked here."""
    return {"lacking": [sha256 for sha256 in archives if not (_place() / "unpacked" / sha256).is_dir()]}


def unpack(path: str, sha256: str) -> dict[str, Any]:
    """Unpack an archive that was sent, a wheel as Python wants it, into a folder of its own; the archive goes.

    Source: PyPA specifications, Binary distribution format.
    """
    with _alone():
        folder = _place() / "unpacked" / sha256
        work = Path(f"{folder}.tmp")
        shutil.rmtree(work, ignore_errors=True)
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                parts = entry.filename.split("/")
                if parts[0].endswith(".data"):
                    parts = parts[2:] if parts[1] in ("purelib", "platlib") else []
                if not parts or not parts[-1]:
                    continue
                if ".." in parts or not parts[0]:
                    raise ValueError(f"{Path(path).name} has a file that leads out of it: {entry.filename}")
                target = work.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                if entry.external_attr >> 16 & 0o111:
                    target.chmod(0o755)
        if not folder.is_dir():
            work.rename(folder)
        Path(path).unlink()
    return {}


def run(words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command to its end; what it says to people comes line by line, its output at the end."""
    with _alone():
        child = subprocess.Popen(
            words,
            env={**os.environ, **environment},
            cwd=Path.home(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        _running.append(child)
        assert child.stdout and child.stderr
        told = threading.Thread(target=_relay, args=(child.stderr,), daemon=True)
        told.start()
        out = child.stdout.read()
        told.join()
        code = child.wait()
        _running.remove(child)
    return {"code": code, "out": out}


def _relay(lines: Iterator[str]) -> None:
    for line in lines:
        say({"line": line.rstrip("\n")})


def switch(link: str, path: str) -> dict[str, Any]:
    """Make `link` lead to the file at `path`; one rename does it, and one leads back (see `back`)."""
    with _alone():
        place, new = Path(link), Path(path)
        if place.exists() and not place.is_symlink():
            raise FileExistsError(errno.EEXIST, "edgeyolo has not installed what is there, and leaves it", link)
        old = (place.parent / place.readlink()).parent if place.is_symlink() else None
        if old == new.parent:
            return {"changed": False}
        _write(new.parent / "previous", old.name if old is not None else "")
        _lead(place, new)
        for version in new.parent.parent.iterdir():
            if version not in (old, new.parent):
                shutil.rmtree(version, ignore_errors=True)
    return {"changed": True, "previous": old.name if old is not None else ""}


def back(link: str) -> dict[str, Any]:
    """Make `link` lead to what it led to before the latest `switch`."""
    with _alone():
        place = Path(link)
        if not place.is_symlink():
            raise FileNotFoundError(errno.ENOENT, "edgeyolo has installed nothing there", link)
        now = (place.parent / place.readlink()).parent
        previous = now.parent / (now / "previous").read_text() / place.name
        if not previous.is_file() or previous.parent == now.parent:
            raise FileNotFoundError(errno.ENOENT, "there is no version before this one", link)
        _lead(place, previous)
    return {"version": previous.parent.name, "left": now.name}


def _lead(link: Path, path: Path) -> None:
    temporary = Path(f"{link}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(path.relative_to(link.parent))
    temporary.replace(link)
    folder = os.open(link.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _write(path: Path, text: str) -> None:
    temporary = Path(f"{path}.tmp")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def clean() -> dict[str, Any]:
    """Remove all that edgeyolo keeps here; bundles that were installed stay."""
    with _alone():
        place = _place()
        freed = sum(path.lstat().st_size for path in place.rglob("*") if not path.is_dir())
        for path in place.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
    return {"freed_bytes": freed}


if __name__ == "__main__":
    main()
