"""Fetches a real MQTT broker, Debian's mosquitto, to be run by an ordinary user on the loopback.

    python tests/live/setup_mosquitto.py           fetch it, or do nothing where it is; prints its program
    python tests/live/setup_mosquitto.py --where   only print the program; exit code 3 where it is not there

It needs a Debian 12 (or a distribution with its packages) with apt; not root. Nothing is installed: packages are
unpacked into the user's cache, as `tests/arm/setup_arm.py` does it.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "arm"))

from setup_arm import MISSING, TOOLS, own_apt, retry, run

logger = logging.getLogger("setup_mosquitto")

PACKAGES = (
    *("mosquitto", "libcjson1", "libdlt2", "libwebsockets17", "libwrap0", "libnsl2", "libtirpc3", "libssl3"),
    *("libsystemd0", "libcap2", "libuv1", "libev4", "libgcrypt20", "libgpg-error0", "liblzma5", "libzstd1"),
    *("liblz4-1", "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libkeyutils1", "libcom-err2"),
    *("zlib1g", "libglib2.0-0", "libpcre2-8-0"),
)
# What this machine has comes first, so that only what it lacks is taken from here.
WRAPPER = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
for folder in /lib/*-linux-gnu /usr/lib/*-linux-gnu "$here"/root/lib/*-linux-gnu "$here"/root/usr/lib/*-linux-gnu; do
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
done
export LD_LIBRARY_PATH
exec "$here/root/usr/sbin/mosquitto" "$@"
"""


def main() -> int:
    """Print the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "edgeyolo" / f"mosquitto-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"
    if not home.is_dir():
        lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
        if args.where or lacking:
            reason = f"needs {' and '.join(lacking)}" if lacking else f"run {sys.argv[0]} first"
            logger.error("no MQTT broker here: %s", reason)
            return MISSING
        set_up(home)
    sys.stdout.write(f"{home / 'mosquitto'}\n")
    return 0


def set_up(home: Path) -> None:
    """Make the folder under another name, try it, then give it its name."""
    home.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{home.name}.tmp-", dir=home.parent))
    try:
        with own_apt() as (apt, host, environment):
            packages = " ".join(f"{name}:{host}" for name in PACKAGES)
            retry(["sh", "-c", f"cd {apt} && apt-get --quiet download {packages}"], environment=environment)
            for archive in sorted(apt.glob("*.deb")):
                run(["dpkg-deb", "--extract", str(archive), str(work / "root")])
        wrapper = work / "mosquitto"
        wrapper.write_text(WRAPPER)
        wrapper.chmod(0o755)
        tried = subprocess.run([str(wrapper), "-h"], capture_output=True, text=True, check=False)
        if "mosquitto version" not in tried.stdout:
            raise SystemExit(f"mosquitto does not run here: {tried.stderr.strip()}")
        work.chmod(0o755)
        work.rename(home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
