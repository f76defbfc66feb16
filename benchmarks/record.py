"""What every result file says of itself: commit, command, machine, versions and date; and what may be used again.

A result is used again only for the same code, which is every source of the package and of the script, and for the same
settings; anything else is measured again.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeyolo.backends import list_packages
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.machine import describe_machine
from edgeyolo.spec.provenance import tool_versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
HEADER = ("commit", "dirty", "code", "command", "machine", "versions", "date")

_SOURCES = ("edgeyolo", "targets", "calib")
_PEERS = ("tensorrt-rtx-cu12",)  # compiled by; no artefact is made of it
_STAMP = "benchmark.json"


def save_result(path: Path, result: Mapping[str, Any], *, scripts: Sequence[str] | None = None) -> None:
    """Write a result under its header, the key "record"; `scripts` as in `code_digest`."""
    write_file(path, (json.dumps({"record": describe_run(scripts), **result}, indent=1) + "\n").encode())


def load_reusable(path: Path, *, scripts: Sequence[str] | None = None, **settings: object) -> dict[str, Any] | None:
    """What the file holds, if this very code made it and it says the same of each of `settings`; otherwise None."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    same_settings = all(found.get(key) == value for key, value in json.loads(json.dumps(settings)).items())
    return found if same_settings and found.get("record", {}).get("code") == code_digest(scripts) else None


def claim_folder(folder: Path, *, scripts: Sequence[str] | None = None, **settings: object) -> Path:
    """A folder for a run of this code and these settings, which goes on there if it was stopped.

    What other code, or other settings, left in it is removed; a folder that no benchmark made is refused.
    """
    stamp, wanted = folder / _STAMP, json.dumps({"code": code_digest(scripts), **settings}, indent=1, default=str)
    if stamp.is_file() and stamp.read_text() != wanted:
        shutil.rmtree(folder)
    elif folder.is_dir() and not stamp.is_file() and any(folder.iterdir()):
        raise SystemExit(f"{folder}: was not made by a benchmark of this version; name another folder, or remove it")
    write_file(stamp, wanted.encode())
    return folder


def describe_run(scripts: Sequence[str] | None = None) -> dict[str, Any]:
    """The header: which code, started how, on which machine, with which packages, when."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", *_SOURCES, "benchmarks/*.py")),
        "code": code_digest(scripts),
        "command": shlex.join(["python", *map(_shown, sys.argv)]),
        "machine": describe_machine(),
        "versions": tool_versions(list_packages()) | _peer_versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def code_digest(scripts: Sequence[str] | None = None) -> str:
    """sha256 of the package's sources, its targets and recipes, and these benchmark modules; None for those loaded."""
    loaded = {Path(file).resolve() for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))}
    ours = [path for path in loaded if path.parent == ROOT / "benchmarks" and (scripts is None or path.stem in scripts)]
    shipped = [path for name in _SOURCES for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".toml")]
    digest = hashlib.sha256()
    for path in sorted(path.resolve() for path in [*shipped, *ours]):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _shown(argument: str) -> str:
    """An argument as it is published: nothing of where this computer keeps its files."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _peer_versions() -> dict[str, str]:
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in _PEERS if name in installed}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
