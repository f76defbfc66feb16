"""What a request is answered with: a reply, a flow of parts without end, or a refusal that says why."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeyolo.spec.errors import EdgeYoloError

REFUSALS = {
    "bad-request": 400,
    "no-token": 401,
    "wrong-host": 403,
    "cross-site": 403,
    "not-found": 404,
    "wrong-method": 405,
    "too-slow": 408,
    "length-required": 411,
    "too-large": 413,
    "not-a-picture": 415,
    "too-many-pixels": 422,
    "too-often": 429,
    "head-too-large": 431,
    "failed": 500,
    "too-many-clients": 503,
    "busy": 503,
}
_RETRY = ("too-often", "too-many-clients", "busy")


@dataclass(frozen=True)
class Head:
    """The first part of a request, before its body.

    Attributes:
        path: without the query, as it was sent.
        headers: lower-case names; of several of a name, the last.
        length: bytes of the body, as stated; None where it is not.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    length: int | None


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Flow:
    """Parts that are sent as they come, until the client has enough."""

    content_type: str
    parts: AsyncGenerator[bytes, None]


class Refusal(EdgeYoloError):
    """A request that is not answered as it asks.

    Args:
        kind: one of `REFUSALS`.
    """

    def __init__(self, kind: str, what: str, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.kind = kind
        self.status = REFUSALS[kind]

    def reply(self) -> Reply:
        """What the client is told."""
        headers = {"Retry-After": "1"} if self.kind in _RETRY else {}
        if self.kind == "no-token":
            headers["WWW-Authenticate"] = "Bearer"
        return json_reply({"error": {"kind": self.kind, "what": self.what, "hint": self.hint}}, self.status, headers)


def json_reply(found: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """JSON in UTF-8."""
    return Reply(json.dumps(found).encode(), status=status, headers=headers or {})
