"""Events of a turn -> one HTTP response; a client that leaves, a slow reader and a shutdown are cases of this file.

The turn runs in the request's own task. A watcher beside it waits for the client's disconnect: it then marks the
client as gone and cancels the turn, which closes the upstream and settles what is stored. It also keeps a silent
stream alive with a comment, and gives up on a reader that takes nothing any more.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from starlette.types import Receive, Send

from proxy.config import Config
from proxy.edge import failures
from proxy.edge.request import Request
from proxy.errors import ProxyError, Unavailable
from proxy.services import Services
from proxy.turn import Chunk, Client, End

RawHeaders = list[tuple[bytes, bytes]]

First = TypeVar("First")

PING = b": ping\n"
"""One newline: with a blank line some SDKs take the comment for an empty event."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a response starts with."""

    status: int
    headers: RawHeaders


@dataclass(slots=True)
class Connection:
    """One request's way back: what was sent, and since when a send is waiting. Times are monotonic seconds."""

    receive: Receive
    send: Send
    config: Config
    status: int = 0
    outcome: str = "ok"
    begun: bool = False
    over: bool = False
    comments: bool = False
    last: float = 0.0
    blocked_since: float | None = None

    async def start(self, status: int, headers: RawHeaders) -> None:
        self.begun, self.status = True, status
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, more: bool = True) -> None:
        self.blocked_since = self.last = time.monotonic()
        self.over = not more
        await self.send({"type": "http.response.body", "body": data, "more_body": more})
        self.blocked_since = None


def log_request(svc: Services, request: Request, connection: Connection, facts: Mapping[str, object]) -> None:
    """One line for a request: ids, counts and durations."""
    svc.log(
        "info",
        "request",
        id=request.id,
        method=request.method,
        path=request.path,
        status=connection.status,
        outcome=connection.outcome,
        ms=round((time.perf_counter() - request.started) * 1000, 2),
        **facts,
    )


async def deliver(
    events: AsyncGenerator[First | Chunk | End],
    client: Client,
    connection: Connection,
    head: Callable[[First], Head],
) -> None:
    """Sends the events: `head` makes the response's start of the first one. Raises ProxyError while nothing was sent;
    later the stream ends with an error event and no [DONE]."""
    me = asyncio.current_task()
    assert me is not None
    watcher = asyncio.ensure_future(_watch(connection, client, me))
    try:
        async with aclosing(events):
            await _send(events, connection, head)
    except asyncio.CancelledError:
        if client.left:
            me.uncancel()
            connection.outcome = "client_left"
            return
        if not connection.begun or connection.over:
            raise
        me.uncancel()
        await _break(connection, _stopping())
    except ProxyError as failure:
        if not connection.begun:
            raise
        await _break(connection, failure)
    finally:
        watcher.cancel()


async def _send(
    events: AsyncGenerator[First | Chunk | End], connection: Connection, head: Callable[[First], Head]
) -> None:
    start: Head | None = None
    async for event in events:
        if isinstance(event, Chunk):
            if start is not None:
                await connection.start(start.status, start.headers)
                connection.comments = _is_stream(start)
                start = None
            await connection.write(event.data)
        elif isinstance(event, End):
            if start is not None:
                length = (b"content-length", str(len(event.data)).encode())
                await connection.start(start.status, [*start.headers, length])
            await connection.write(event.data, more=False)
        else:
            start = head(event)


def _is_stream(head: Head) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in head.headers)


async def _break(connection: Connection, failure: ProxyError) -> None:
    """The error event that ends a stream for good. The connection may be gone: then nobody is there to be told."""
    connection.outcome = failure.code or failure.type
    if not connection.over:
        with contextlib.suppress(OSError):
            await connection.write(failures.event(failure), more=False)


def _stopping() -> ProxyError:
    return Unavailable("the server is stopping; nothing was stored, send the message again", code="shutting_down")


async def _watch(connection: Connection, client: Client, turn: asyncio.Task[None]) -> None:
    """Until the client leaves or the reader stalls; then cancels the turn (or lets it finish, if so configured)."""
    server = connection.config.server
    pause = min(server.keepalive_comment_s or server.send_timeout_s, server.send_timeout_s) / 3
    leaving = asyncio.ensure_future(_left(connection.receive))
    try:
        while not (await asyncio.wait((leaving,), timeout=pause))[0]:
            now = time.monotonic()
            if connection.blocked_since is not None:
                if now - connection.blocked_since > server.send_timeout_s:
                    break
            elif (
                connection.comments
                and server.keepalive_comment_s
                and now - connection.last >= server.keepalive_comment_s
            ):
                await connection.write(PING)
    finally:
        leaving.cancel()
    if not connection.over:
        client.left = True
        if connection.config.sessions.on_disconnect != "finish" or connection.blocked_since is not None:
            turn.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
