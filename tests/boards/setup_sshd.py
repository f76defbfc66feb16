"""Fetches a real OpenSSH server, and a client where there is none, to be run by an ordinary user on the loopback.

    python tests/boards/setup_sshd.py           fetch it, or do nothing where it is; prints its folder
    python tests/boards/setup_sshd.py --where   only print the folder; exit code 3 where it is not there

It needs a Debian 12 (or a distribution with its packages) with apt; not root. Nothing is installed: packages are
unpacked into the user's cache, as `tests/arm/setup_arm.py` does it. `nss_wrapper` gives the server an account of its
own making, whose home is the board's.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "arm"))

from setup_arm import MISSING, TOOLS, own_apt, retry, run

logger = logging.getLogger("setup_sshd")

PACKAGES = (
    *("openssh-server", "openssh-client", "libnss-wrapper", "libwrap0", "libnsl2", "libtirpc3", "libpam0g"),
    *("libaudit1", "libcap-ng0", "libsystemd0", "libcrypt1", "libselinux1", "libgssapi-krb5-2", "libkrb5-3"),
    *("libk5crypto3", "libkrb5support0", "libkeyutils1", "libcom-err2", "libssl3", "libcap2", "libgcrypt20"),
    *("libgpg-error0", "liblzma5", "libzstd1", "liblz4-1", "libpcre2-8-0", "libedit2", "libfido2-1", "libcbor0.8"),
    *("libbsd0", "libmd0", "libtinfo6", "zlib1g"),
)
# What this machine has comes first, so that only what it lacks is taken from here.
WRAPPER = """\
#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
for folder in /lib/*-linux-gnu /usr/lib/*-linux-gnu "$here"/root/lib/*-linux-gnu "$here"/root/usr/lib/*-linux-gnu; do
    LD_LIBRARY_PATH=${{LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}}$folder
done
export LD_LIBRARY_PATH
exec "$here/root/usr/{program}" "$@"
"""
PROGRAMS = ("sbin/sshd", "bin/ssh", "bin/ssh-keygen")


def main() -> int:
    """Print the folder, whose `bin` has sshd, ssh and ssh-keygen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "edgeyolo" / f"sshd-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"
    if not home.is_dir():
        lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
        if args.where or lacking:
            reason = f"needs {' and '.join(lacking)}" if lacking else f"run {sys.argv[0]} first"
            logger.error("no SSH server here: %s", reason)
            return MISSING
        set_up(home)
    sys.stdout.write(f"{home}\n")
    return 0


def set_up(home: Path) -> None:
    """Make the folder under another name, try it, then give it its name."""
    home.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{home.name}.tmp-", dir=home.parent))
    try:
        unpack_debian(work / "root")
        (work / "bin").mkdir()
        for program in PROGRAMS:
            wrapper = work / "bin" / Path(program).name
            wrapper.write_text(WRAPPER.format(program=program))
            wrapper.chmod(0o755)
        run([str(work / "bin/ssh"), "-V"])
        work.chmod(0o755)
        work.rename(home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack_debian(root: Path) -> None:
    """The packages, and nothing that they depend on beside."""
    with own_apt() as (apt, host, environment):
        packages = [f"{name}:{host}" for name in PACKAGES]
        retry(["sh", "-c", f"cd {apt} && apt-get --quiet download {' '.join(packages)}"], environment=environment)
        for archive in sorted(apt.glob("*.deb")):
            run(["dpkg-deb", "--extract", str(archive), str(root)])


if __name__ == "__main__":
    sys.exit(main())
