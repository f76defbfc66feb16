"""Sets up an emulated aarch64 board: Python 3.11 with the real ncnn, NumPy and OpenCV wheels, run by qemu-user.

    python tests/arm/setup_arm.py             set it up, or do nothing where it is; prints the path of its Python
    python tests/arm/setup_arm.py --where     only print the path; exit code 3 where it is not set up
    QEMU_CPU=cortex-a72 $(python tests/arm/setup_arm.py) script.py

It needs a Debian 12 (or a distribution with its packages) with apt and pip; not root. Debian packages are downloaded
with an apt state of its own from the sources of this machine, so nothing is installed and apt checks every file against
the signed index. Wheels are pinned by hash in requirements.txt. All of it lands in the user's cache, in a folder named
by a digest of these files, which can be deleted at any time.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("setup_arm")

HERE = Path(__file__).parent
REQUIREMENTS, PACKAGES = HERE / "requirements.txt", HERE / "packages.txt"
TOOLS = ("apt-get", "dpkg-deb")
PLATFORMS = ("manylinux_2_35", "manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
SMOKE = "import cv2, ncnn, numpy, platform; assert platform.machine() == 'aarch64', platform.machine()"
TRIES, PAUSE_S = 3, 10
MISSING = 3

# The emulator is the dynamic one, because only that takes plugins; it runs with the libraries it was made for.
# What lies under BOARD_ROOT is what the board's programs find under /, before what this machine has there.
LAUNCHER = """\
#!/bin/sh
# Python 3.11 for aarch64; QEMU_CPU names the core, such as cortex-a53.
here=$(dirname "$(readlink -f "$0")")
loader=$(echo "$here"/host/lib/*-linux-gnu/ld-linux-*.so.?)
libraries=$(dirname "$loader"):$(echo "$here"/host/usr/lib/*-linux-gnu)
emulator="$here/host/usr/bin/qemu-aarch64"
board="${BOARD_ROOT:-$here/root}"
exec "$loader" --library-path "$libraries" "$emulator" -L "$board" "$here/root/usr/bin/python3.11" "$@"
"""

APT_CONFIG = """\
APT::Architecture "{host}";
APT::Architectures {{ "{host}"; "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""


def main() -> int:
    """Print the path of the emulated Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    home = folder_of_this_set_up()
    python = home / "python"
    if not python.exists():
        lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
        if args.where or lacking:
            reason = f"needs {' and '.join(lacking)}" if lacking else f"run {sys.argv[0]} first"
            logger.error("no emulated aarch64 Python here: %s", reason)
            return MISSING
        set_up(home)
    sys.stdout.write(f"{python}\n")
    return 0


def folder_of_this_set_up() -> Path:
    """Where it is or will be: another folder for every version of the files that it is made from."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (Path(__file__), REQUIREMENTS, PACKAGES)))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgeyolo" / f"arm-{digest.hexdigest()[:12]}"


def set_up(home: Path) -> None:
    """Make the folder under another name, try it, then give it its name."""
    started = time.monotonic()
    home.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{home.name}.tmp-", dir=home.parent))
    try:
        unpack_debian(work)
        logger.info("%.0f s: Debian packages unpacked", time.monotonic() - started)
        install_wheels(work / "root/usr/lib/python3/dist-packages")
        logger.info("%.0f s: wheels unpacked", time.monotonic() - started)
        launcher = work / "python"
        launcher.write_text(LAUNCHER)
        launcher.chmod(0o755)
        run([str(launcher), "-c", SMOKE], environment={"QEMU_CPU": "cortex-a53"})
        work.chmod(0o755)
        work.rename(home)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    logger.info("%.0f s: ready", time.monotonic() - started)


@contextlib.contextmanager
def own_apt() -> Iterator[tuple[Path, str, dict[str, str]]]:
    """A folder with an apt state of its own, up to date; this machine's architecture; what apt-get finds it by."""
    with tempfile.TemporaryDirectory(prefix="edgeyolo-apt-") as folder:
        apt = Path(folder)
        for name in ("state/lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()
        config = apt / "apt.conf"
        host = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        config.write_text(APT_CONFIG.format(folder=apt, host=host))
        environment = {"APT_CONFIG": str(config)}
        retry(["apt-get", "--quiet", "update"], environment=environment)
        yield apt, host, environment


def unpack_debian(work: Path) -> None:
    """qemu of this machine's architecture into `work/host`, an arm64 userland into `work/root`."""
    with own_apt() as (apt, host, environment):
        names = [f"{name}:arm64" for name in read_lines(PACKAGES)]
        install = ["install", "--yes", "--download-only", f"qemu-user:{host}", *names]
        retry(["apt-get", "--quiet", *install], environment=environment)
        for archive in sorted((apt / "cache/archives").glob("*.deb")):
            machine = archive.stem.rpartition("_")[2]
            for place, wanted in (("host", (host,)), ("root", ("arm64", "all"))):
                if machine in wanted:
                    run(["dpkg-deb", "--extract", str(archive), str(work / place)])
    for program in (work / "host/usr/bin").iterdir():
        if program.name != "qemu-aarch64":
            program.unlink()


def install_wheels(site: Path, requirements: Path = REQUIREMENTS) -> None:
    """Packages of the board, or of peers; pip refuses a file whose hash is not in that list."""
    platforms = [f"--platform={name}_aarch64" for name in PLATFORMS]
    wheels = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", *platforms]
    wheels += ["--abi=cp311", "--abi=abi3", "--abi=none"]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--no-warn-conflicts"]
    target = ["--target", str(site), "--requirement", str(requirements)]
    retry([sys.executable, "-m", "pip", "install", *options, *wheels, *target])


def read_lines(path: Path) -> list[str]:
    """What a list names, without its comments."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def retry(command: list[str], *, environment: dict[str, str] | None = None) -> None:
    """Run what needs the network, again after a pause where it fails."""
    for attempt in range(1, TRIES):
        try:
            return run(command, environment=environment)
        except SystemExit as error:
            logger.warning("%s\nTry %d of %d failed", error, attempt, TRIES)
            time.sleep(PAUSE_S)
    return run(command, environment=environment)


def run(command: list[str], *, environment: dict[str, str] | None = None) -> None:
    """Run a command silently; end with what it said where it fails."""
    done = subprocess.run(
        command,
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")


if __name__ == "__main__":
    sys.exit(main())
