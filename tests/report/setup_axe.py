"""Fetches axe-core, which finds what keeps people out of a page: `axe.min.js`, from a Python package that has it.

    python tests/report/setup_axe.py           fetch it, or do nothing where it is; prints its path
    python tests/report/setup_axe.py --where   only print the path; exit code 3 where it is not there

The package itself drives browsers by playwright, which is large and not needed here; nothing is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "axe-playwright-python==0.1.8"
MEMBER = "axe_playwright_python/axe.min.js"
MISSING = 3


def main() -> int:
    """Print the path of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", action="store_true")
    args = parser.parse_args()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    script = cache / "edgeyolo" / f"{PACKAGE.replace('==', '-')}.js"
    if not script.is_file():
        if args.where:
            sys.stderr.write(f"axe-core is not here: run {sys.argv[0]} first\n")
            return MISSING
        script.parent.mkdir(parents=True, exist_ok=True)
        fetch(script)
    sys.stdout.write(f"{script}\n")
    return 0


def fetch(script: Path) -> None:
    """Take the script out of the wheel, under another name until it is whole."""
    with tempfile.TemporaryDirectory(dir=script.parent) as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--dest", work, PACKAGE], check=True)
        (wheel,) = Path(work).glob("*.whl")
        part = Path(work) / "axe.min.js"
        part.write_bytes(zipfile.ZipFile(wheel).read(MEMBER))
        part.rename(script)


if __name__ == "__main__":
    sys.exit(main())
