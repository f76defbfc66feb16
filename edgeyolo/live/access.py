"""Who may ask: names this computer goes by, pages of other places, and the token.

A page elsewhere that the user has open can make the browser ask here. It cannot read the answers (nothing allows other
origins), and it is not answered either: the name that was asked for must be one of ours, which an attacker's own domain
that is pointed here is not, and the browser says when a request comes from another site.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

from edgeyolo.live.replies import Head, Refusal
from edgeyolo.spec.errors import FormatError, OutputError, UsageError

COOKIE = "edgeyolo"
LEAST_TOKEN = 16  # characters
_TOKEN_BYTES = 24


class Access:
    """What is asked of each request.

    Args:
        token: None where none is needed.
        names: further names of this computer.
    """

    def __init__(self, token: str | None, names: tuple[str, ...] = ()) -> None:
        own = socket.gethostname().lower()
        self._names = {"localhost", own, f"{own}.local", *(name.lower() for name in names)}
        self.token = token

    def check_origin(self, head: Head) -> None:
        """Raise `Refusal` where the name is not ours, or another site's page asks."""
        host = head.headers.get("host", "")
        if not self._is_ours(host):
            raise Refusal(
                "wrong-host", "this computer does not go by that name", hint="Allow a name with --allow-host NAME"
            )
        site, mode = head.headers.get("sec-fetch-site", ""), head.headers.get("sec-fetch-mode", "")
        origin = head.headers.get("origin")
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if is_foreign or (site in ("cross-site", "same-site") and mode != "navigate"):
            raise Refusal("cross-site", "a page of another site asks", hint="Open this address itself")

    def check_token(self, head: Head) -> None:
        """Raise `Refusal` unless the token comes in a header, the cookie or the query."""
        if self.token is not None and not any(self.is_token(given) for given in _tokens(head)):
            raise Refusal(
                "no-token",
                "the token is missing or wrong",
                hint="Send Authorization: Bearer TOKEN, or open /?token=TOKEN",
            )

    def is_token(self, given: str) -> bool:
        """Compared in the same time, however much of it is right."""
        wanted = self.token or ""
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())

    def cookie(self) -> str:
        """A header's value that makes the browser bring the token from now on."""
        return f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"

    def _is_ours(self, host: str) -> bool:
        """An address cannot be pointed elsewhere as a name can."""
        with contextlib.suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            ipaddress.ip_address(name)
            return True
        return False


def _tokens(head: Head) -> list[str]:
    kind, _, given = head.headers.get("authorization", "").partition(" ")
    tokens = [given.strip()] if kind.lower() == "bearer" else []
    tokens += [head.query["token"]] if "token" in head.query else []
    with contextlib.suppress(CookieError):
        jar = SimpleCookie(head.headers.get("cookie", ""))
        tokens += [jar[COOKIE].value] if COOKIE in jar else []
    return tokens


def is_own_address(host: str) -> bool:
    """Whether nobody but this computer can reach it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find_token(host: str, token_file: Path | None) -> str | None:
    """The token for an address: the file's, a new one, or None where only this computer can ask.

    Raises:
        FormatError: the file holds none that can be used. OutputError: it cannot be read or made.
    """
    if token_file is None:
        return None if is_own_address(host) else secrets.token_urlsafe(_TOKEN_BYTES)
    if not token_file.exists():
        return _make_token(token_file)
    try:
        token = token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot be read ({error})", where=token_file) from None
    if len(token) < LEAST_TOKEN or not all(c.isalnum() or c in "-_.~" for c in token):
        raise FormatError(
            f"holds no token: at least {LEAST_TOKEN} letters, digits, - or _",
            where=token_file,
            hint="Remove it, and a new one is made",
        )
    return token


def _make_token(path: Path) -> str:
    """A new one, in a file that nobody else may read."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(f"{token}\n", encoding="ascii")
    except OSError as error:
        raise OutputError(
            f"cannot be made ({error.strerror})", where=path, hint="Choose another --token-file"
        ) from None
    return token


def read_secret(path: Path | None, option: str) -> str | None:
    """The first line of a file that holds a password.

    Raises:
        UsageError: it cannot be read.
    """
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read ({error})", where=path, hint=f"Check {option}") from None
