"""What starts `serve` with the computer and keeps it running: a systemd unit, or a Dockerfile.

Source: systemd.exec(5), systemd.service(5); docs.docker.com, "Dockerfile reference".
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from edgeyolo import __version__
from edgeyolo.bundle import read_manifest
from edgeyolo.live.access import is_own_address
from edgeyolo.spec.serving import RecordOptions, ServeOptions

_HIDDEN = (
    Path("/home"),
    Path("/root"),
    Path("/run/user"),
    Path("/tmp"),
)  # from the unit, by ProtectHome and PrivateTmp
_PLAIN_ENGINES = ("ncnn", "onnxruntime")  # which need no device
_STATE = "/var/lib/edgeyolo"  # of the unit and in the container

UNIT = """\
# /etc/systemd/system/edgeyolo.service; then: systemctl daemon-reload && systemctl enable --now edgeyolo
# The token is in {state}/token; what it says: journalctl -u edgeyolo. An address of a camera may hold
# a password: then chmod 600 this file.
[Unit]
Description=edgeyolo: what this computer sees
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
Restart=always
RestartSec=5
WatchdogSec=60
TimeoutStartSec=120

DynamicUser=yes
StateDirectory=edgeyolo
CacheDirectory=edgeyolo
Environment=EDGEYOLO_CACHE=%C/edgeyolo PYTHONUNBUFFERED=1
UMask=0077

ProtectSystem=strict
{home}
PrivateTmp=yes
{devices}
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
"""

DOCKERFILE = """\
# docker build -t edgeyolo-live . && docker run -d --restart unless-stopped --read-only --tmpfs /tmp --cap-drop ALL \\
#   --security-opt no-new-privileges -p {port}:{port} -v edgeyolo:{state}{devices} edgeyolo-live
# The token: docker exec CONTAINER cat {state}/token
FROM python:{python}-slim-bookworm
RUN pip install --no-cache-dir "edgeyolo[live,{engine}]=={version}" \\
 && useradd --system --create-home --home-dir {state} --shell /usr/sbin/nologin edgeyolo
COPY {bundle} /models/{bundle}
USER edgeyolo
ENV EDGEYOLO_CACHE=/tmp/edgeyolo PYTHONUNBUFFERED=1
VOLUME {state}
EXPOSE {port}
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \\
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/healthz', timeout=4)"]
ENTRYPOINT {command}
"""


def make_unit(bundle: Path, sources: Sequence[str], options: Iterable[msgspec.Struct]) -> str:
    """A systemd unit that runs this very Python.

    Args:
        options: of `serve`; what differs from its defaults is written out.

    Raises:
        BundleError: the bundle is broken.
    """
    flags = _with_places(options)
    python, whole = Path(sys.executable), bundle.resolve()
    files = [whole, *(Path(source).resolve() for source in sources if Path(source).is_file())]
    words = [str(python), "-m", "edgeyolo", "serve", str(whole), *map(_resolved, sources), *flags]
    hidden = [path for path in (Path(sys.prefix), *files) if any(path.is_relative_to(place) for place in _HIDDEN)]
    needs_devices = _engine_of(bundle) not in _PLAIN_ENGINES or any(map(_is_device, sources))
    return UNIT.format(
        state=_STATE,
        command=" ".join(map(_unit_word, words)),
        home="\n".join(["ProtectHome=tmpfs", *(f"BindReadOnlyPaths={_unit_word(str(path))}" for path in hidden)]),
        devices="PrivateDevices=no\nSupplementaryGroups=video" if needs_devices else "PrivateDevices=yes",
    )


def make_dockerfile(bundle: Path, sources: Sequence[str], options: Iterable[msgspec.Struct]) -> str:
    """A Dockerfile, to be built in the bundle's folder; arguments and errors as in `make_unit`."""
    given = list(options)
    serving = next(each for each in given if isinstance(each, ServeOptions))
    outside = msgspec.structs.replace(serving, host="0.0.0.0" if is_own_address(serving.host) else serving.host)
    flags = _with_places(outside if each is serving else each for each in given)
    words = ["edgeyolo", "serve", f"/models/{bundle.name}", *sources, *flags]
    devices = "".join(f" --device /dev/video{source}" for source in sources if source.isdecimal())
    return DOCKERFILE.format(
        state=_STATE,
        port=serving.port,
        devices=devices,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        engine=_engine_of(bundle),
        version=__version__,
        bundle=bundle.name,
        command=json.dumps(words),
    )


def write_flags(options: msgspec.Struct) -> list[str]:
    """The flags that say what differs from the defaults."""
    words: list[str] = []
    for field in msgspec.structs.fields(type(options)):
        value = getattr(options, field.name)
        flag = f"--{field.name.replace('_', '-')}"
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += [flag, f"{each:g}" if isinstance(each, float) else str(each)]
    return words


def _with_places(options: Iterable[msgspec.Struct]) -> list[str]:
    """The flags, with the token where the service may write."""
    words: list[str] = []
    for each in options:
        if isinstance(each, ServeOptions) and each.token_file is None and not is_own_address(each.host):
            each = msgspec.structs.replace(each, token_file=Path(_STATE) / "token")
        if isinstance(each, RecordOptions) and each.record is not None and not each.record.is_absolute():
            each = msgspec.structs.replace(each, record=Path(_STATE) / each.record)
        words += write_flags(each)
    return words


def _engine_of(bundle: Path) -> str:
    return read_manifest(bundle).artefact.engine


def _is_device(source: str) -> bool:
    """A camera, or a pipeline, which may have one."""
    return source.isdecimal() or not ("://" in source or Path(source).is_file()) or source.startswith("csi://")


def _resolved(source: str) -> str:
    return str(Path(source).resolve()) if Path(source).is_file() else source


def _unit_word(word: str) -> str:
    """A word of ExecStart: what systemd would expand is doubled, and it is quoted where it must be."""
    plain = word.replace("%", "%%").replace("$", "$$")
    if shlex.quote(word) == word:
        return plain
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
