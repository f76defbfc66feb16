"""HTTP/1.1 with limits: h11 reads the protocol, asyncio the wire, and what may take how long and how much stands here.

A parser and not a framework, for a board's sake and for the limits': the common servers have no deadline for a whole
head, do not make room by whom they cut off, and buffer what a client does not take.

A head has one deadline as a whole, so that a byte now and then does not keep a connection. Where all places are taken,
the connection that has asked for nothing for longest gives way. A client that does not read is left out of newer parts,
and after a while is cut off; what waits for it is one part at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from edgeyolo.live.replies import Flow, Head, Refusal, Reply
from edgeyolo.spec.errors import EdgeYoloError
from edgeyolo.spec.packages import import_package

logger = logging.getLogger(__name__)

EXTRA = "live"
_CHUNK = 1 << 16
_SEND_BUFFER = 1 << 17  # of the kernel, for a connection: more would be pictures that are old when they arrive
_LINGER_BYTES, _LINGER_S = 1 << 26, 2.0
_TOLD = 32  # clients that are told at the same time that there is no place; more are sent away without a word


@dataclass(frozen=True)
class Limits:
    """What one client may take.

    Attributes:
        connections: open at the same time.
        head_bytes: of a request line and its headers.
        head_s: until they are all there, from the moment they are waited for.
        body_s: until the body is all there.
        write_s: until a client has taken what it was sent.
    """

    connections: int = 96
    head_bytes: int = 16_384
    head_s: float = 10.0
    body_s: float = 30.0
    write_s: float = 10.0


class App(Protocol):
    """What answers."""

    def admit(self, head: Head) -> int:
        """Bytes of the body that are taken, 0 for none; raises `Refusal` before any of it is read."""

    async def answer(self, head: Head, body: bytes) -> Reply | Flow:
        """The answer; raises `Refusal`."""

    def leave(self, head: Head) -> None:
        """A request that was admitted is over."""


class HttpServer:
    """Serves an `App` from the event loop that is running.

    Args:
        headers: of every answer.
        on_refusal: is told the kind of each refusal.
    """

    def __init__(self, app: App, limits: Limits, headers: Mapping[str, str], on_refusal: Callable[[str], None]) -> None:
        self.app, self.limits, self.headers, self.on_refusal = app, limits, headers, on_refusal
        self._h11 = import_package("h11", needed_for="the live page", extra=EXTRA)
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[_Connection] = set()
        self._idle: dict[_Connection, None] = {}  # of those, what has asked for nothing yet, longest first
        self._server: asyncio.Server | None = None

    async def start(self, place: socket.socket) -> None:
        """Listen on a socket that is bound."""
        self._server = await asyncio.start_server(self._accept, sock=place, limit=_CHUNK, backlog=128)

    async def close(self) -> None:
        """Take no more, and break off every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """That are open."""
        return len(self._open)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, self._h11, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._open) < self.limits.connections or self._make_room():
                self._open.add(connection)
                await connection.serve()
            elif len(self._tasks) < self.limits.connections + _TOLD:
                await connection.refuse(Refusal("too-many-clients", "every place is taken", hint="Try again later"))
            else:
                self.on_refusal("too-many-clients")
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError):
            pass  # gone, too slow, or broken off
        finally:
            self._forget(connection)
            writer.transport.abort()
            self._tasks.discard(task)

    def rest(self, connection: _Connection, *, is_idle: bool) -> None:
        """Note whether a connection waits for a request, and so can give way."""
        self._idle.pop(connection, None)
        if is_idle and connection in self._open:
            self._idle[connection] = None

    def _forget(self, connection: _Connection) -> None:
        self._idle.pop(connection, None)
        self._open.discard(connection)

    def _make_room(self) -> bool:
        """Break off the connection that has asked for nothing for longest; False where all are at work."""
        longest = next(iter(self._idle), None)
        if longest is None:
            return False
        self._forget(longest)
        longest.abort()
        self.on_refusal("too-many-clients")
        return True


class _Connection:
    """One client: its requests, one after the other."""

    def __init__(
        self, server: HttpServer, h11: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._server, self._h11, self._reader, self._writer = server, h11, reader, writer
        self._wire = h11.Connection(h11.SERVER, max_incomplete_event_size=server.limits.head_bytes)
        self._is_head = False  # the latest request, whose answer has no body then
        writer.transport.set_write_buffer_limits(high=0)  # `drain` then waits until the kernel has it all
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def abort(self) -> None:
        """End it at once."""
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Until the client leaves, or is refused."""
        limits = self._server.limits
        while True:
            self._server.rest(self, is_idle=True)
            try:
                head = await asyncio.wait_for(self._read_head(), limits.head_s)
            except asyncio.TimeoutError:
                return await self.refuse(Refusal("too-slow", f"no whole request within {limits.head_s:g} s"))
            except self._h11.RemoteProtocolError as error:
                kind = "head-too-large" if error.error_status_hint == 431 else "bad-request"
                return await self.refuse(Refusal(kind, f"is no request of HTTP/1.1 ({error})"))
            except Refusal as refusal:
                return await self.refuse(refusal)
            self._server.rest(self, is_idle=False)
            if head is None or not await self._answer(head):
                return None
            self._wire.start_next_cycle()

    async def _answer(self, head: Head) -> bool:
        """Answer one request; False where the connection is to end."""
        app = self._server.app
        try:
            most = app.admit(head)
        except Refusal as refusal:
            return await self._refuse_one(head, refusal)
        try:
            body = await asyncio.wait_for(self._read_body(head, most), self._server.limits.body_s)
            answer = await app.answer(head, body)
            if isinstance(answer, Flow):
                await self._send_flow(answer)
                return False
            await self._send_reply(answer)
        except EdgeYoloError as error:
            reason = error if isinstance(error, Refusal) else Refusal("failed", str(error))
            return await self._refuse_one(head, reason)
        except asyncio.TimeoutError:
            await self.refuse(Refusal("too-slow", "the rest of the request did not come"))
            return False
        except self._h11.RemoteProtocolError:
            return False
        finally:
            app.leave(head)
        return self._is_reusable()

    async def _refuse_one(self, head: Head, refusal: Refusal) -> bool:
        """Where the whole request has been read, the connection can go on."""
        if self._wire.their_state is self._h11.SEND_BODY and head.length == 0:
            await self._next_event()
        if self._wire.their_state is not self._h11.DONE:
            await self.refuse(refusal)
            return False
        self._server.on_refusal(refusal.kind)
        await self._send_reply(refusal.reply())
        return self._is_reusable()

    def _is_reusable(self) -> bool:
        done = self._h11.DONE
        return self._wire.our_state is done and self._wire.their_state is done

    async def _read_head(self) -> Head | None:
        """The next request's; None where the client is gone, or wants another protocol."""
        self._is_head = False
        event = await self._next_event()
        if not isinstance(event, self._h11.Request):
            return None
        self._is_head = event.method == b"HEAD"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        try:
            target = urlsplit(event.target.decode("ascii"))
            query = dict(parse_qsl(target.query, max_num_fields=20))
        except ValueError:
            raise Refusal("bad-request", "its address cannot be read") from None
        length = headers.get("content-length")
        stated = int(length) if length is not None else None
        if stated is None and "transfer-encoding" not in headers:
            stated = 0
        return Head(event.method.decode("ascii"), target.path, query, headers, stated)

    async def _read_body(self, head: Head, most: int) -> bytes:
        """All of it; `most` and the stated length hold before anything is read."""
        if head.length is None:
            raise Refusal("length-required", "a body without Content-Length is not taken")
        if head.length > most:
            raise Refusal("too-large", f"{head.length:,} bytes are sent, and {most:,} are the most that is taken here")
        if self._wire.they_are_waiting_for_100_continue:
            await self._send(self._wire.send(self._h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        while isinstance(event := await self._next_event(), self._h11.Data):
            body += event.data
        if not isinstance(event, self._h11.EndOfMessage):
            raise ConnectionResetError
        return bytes(body)

    async def _next_event(self) -> Any:
        while (event := self._wire.next_event()) is self._h11.NEED_DATA:
            self._wire.receive_data(await self._reader.read(_CHUNK))
        return event

    async def refuse(self, refusal: Refusal) -> None:
        """Say why, and end; what is still coming is let in for a moment, or the answer would be lost with it."""
        self._server.on_refusal(refusal.kind)
        if self._wire.our_state not in (self._h11.IDLE, self._h11.SEND_RESPONSE):
            return
        await self._send_reply(refusal.reply(), is_last=True)
        self._writer.write_eof()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._swallow(), _LINGER_S)

    async def _swallow(self) -> None:
        left = _LINGER_BYTES
        while left > 0 and (chunk := await self._reader.read(_CHUNK)):
            left -= len(chunk)

    async def _send_reply(self, reply: Reply, *, is_last: bool = False) -> None:
        headers = {**self._server.headers, **reply.headers, "Content-Length": str(len(reply.body))}
        headers["Content-Type"] = reply.content_type
        if is_last:
            headers["Connection"] = "close"
        raw = self._wire.send(self._h11.Response(status_code=reply.status, headers=_encode(headers)))
        if not self._is_head:
            raw += self._wire.send(self._h11.Data(data=reply.body))
        await self._send(raw + self._wire.send(self._h11.EndOfMessage()))

    async def _send_flow(self, flow: Flow) -> None:
        headers = {**self._server.headers, "Content-Type": flow.content_type, "Connection": "close"}
        await self._send(self._wire.send(self._h11.Response(status_code=200, headers=_encode(headers))))
        if self._is_head:
            return
        async with contextlib.aclosing(flow.parts) as parts:
            async for part in parts:
                await self._send(self._wire.send(self._h11.Data(data=part)))

    async def _send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await asyncio.wait_for(self._writer.drain(), self._server.limits.write_s)


def _encode(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
