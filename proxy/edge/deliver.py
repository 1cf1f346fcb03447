"""Events of a turn -> one HTTP response; a client that leaves, a slow reader and a shutdown are cases of this file.

The turn runs in the request's own task. When the client hangs up, the server says so at once: the client is marked as
gone and the turn is cancelled, which closes the upstream and settles what is stored. A sweep of all open connections,
ten times a second, does what would else be several timers for each request: it ends a body that does not come and a
reader that takes nothing any more, and keeps a silent stream alive with a comment.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.types import Message, Receive, Send

from proxy.config import Config
from proxy.edge import failures
from proxy.edge.request import Request
from proxy.errors import ProxyError, Unavailable
from proxy.events import Chunk, Client, End
from proxy.services import Services
from proxy.upstream.headers import has_media

RawHeaders = list[tuple[bytes, bytes]]
First = TypeVar("First")

SWEEP_S = 0.1
"""How often the connections are looked at."""

PING = b": ping\n"
"""One newline: with a blank line some SDKs take the comment for an empty event."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """What a response starts with."""

    status: int
    headers: RawHeaders


@dataclass(slots=True, eq=False)
class Connection:
    """One request's way back: how far it is, and since when it waits. Times are monotonic seconds, `first`, when the
    answer began, of the request's clock (perf_counter).

    `reading`: the body has not come yet; `late`: the sweep ended it for that. `client`: who is told when it leaves,
    None while no turn runs. `abort` cuts the connection; `watch` has it said when it is lost, until `unwatch` with the
    same: where the server offers it.
    """

    receive: Receive
    send: Send
    config: Config
    task: asyncio.Task[None]
    abort: Callable[[], None] | None = None
    watch: Callable[[Callable[[], None]], None] | None = None
    unwatch: Callable[[Callable[[], None]], None] | None = None
    style: failures.Style = failures.OPENAI
    status: int = 0
    outcome: str = "ok"
    reading: bool = True
    late: bool = False
    begun: bool = False
    over: bool = False
    comments: bool = False
    last: float = 0.0
    first: float | None = None
    blocked_since: float | None = None
    client: Client | None = None
    pinging: asyncio.Future[None] | None = None

    async def start(self, status: int, headers: RawHeaders) -> None:
        self.begun, self.status, self.first = True, status, time.perf_counter()
        await self.tell({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, more: bool = True) -> None:
        self.over = not more
        await self.tell({"type": "http.response.body", "body": data, "more_body": more})

    async def tell(self, message: Message) -> None:
        """Sends, under the sweep's eyes: a client that reads nothing would hold its session and its upstream."""
        self.blocked_since = self.last = time.monotonic()
        await self.send(message)
        self.blocked_since = None

    def cut(self) -> None:
        """Ends the connection at once, where the server offers that."""
        if self.abort is not None:
            self.abort()

    def sweep(self, now: float) -> None:
        """Looks at the connection; called ten times a second."""
        server = self.config.server
        if self.reading:
            if now - self.last > server.body_timeout_s:
                self.late = True
                self.task.cancel()
        elif self.blocked_since is not None:
            if now - self.blocked_since > server.send_timeout_s:
                self.cut()
                self.leave(stalled=True)
        elif self._is_silent(now):
            self.pinging = asyncio.ensure_future(self.write(PING))

    def _is_silent(self, now: float) -> bool:
        """Whether a stream that is not over wants a comment."""
        running = self.client is not None and self.comments and not self.over
        return running and 0 < self.config.server.keepalive_comment_s <= now - self.last

    def leave(self, stalled: bool = False) -> None:
        """The client is gone: the turn is told, and ended unless it may finish without one."""
        if self.client is not None and not self.over and not self.client.left:
            self.client.left = True
            if stalled or not self.client.may_leave:
                self.task.cancel()


def log_request(svc: Services, request: Request, connection: Connection, facts: Mapping[str, object]) -> None:
    """Counts a request and writes its line: ids, counts and durations. For one that nobody expected to fail, what its
    client gets."""
    if isinstance(sys.exception(), Exception):
        connection.status, connection.outcome = connection.status or 500, "internal"
    overhead = facts.get("overhead_ms")
    svc.metrics.request(
        request.path,
        connection.status,
        connection.outcome,
        None if connection.first is None else connection.first - request.started,
        overhead / 1000 if isinstance(overhead, float) else None,
    )
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
    connection.client = client
    if connection.watch is not None:
        connection.watch(connection.leave)
    try:
        async with aclosing(events):
            await _send(events, connection, head)
    except asyncio.CancelledError:
        if client.left:
            connection.task.uncancel()
            connection.outcome = "client_left"
            return
        if not connection.begun or connection.over:
            raise
        connection.task.uncancel()
        await _break(connection, stopping())
    except ProxyError as failure:
        if not connection.begun:
            raise
        await _break(connection, failure)
    finally:
        connection.client = None
        if connection.unwatch is not None:
            connection.unwatch(connection.leave)
        if connection.pinging is not None:
            connection.pinging.cancel()


async def _send(
    events: AsyncGenerator[First | Chunk | End], connection: Connection, head: Callable[[First], Head]
) -> None:
    start: Head | None = None
    async for event in events:
        if isinstance(event, Chunk):
            if start is not None:
                await connection.start(start.status, start.headers)
                connection.comments = has_media(start.headers, b"text/event-stream")
                start = None
            await connection.write(event.data)
        elif isinstance(event, End):
            if start is not None:
                length = (b"content-length", str(len(event.data)).encode())
                await connection.start(start.status, [*start.headers, length])
            await connection.write(event.data, more=False)
        else:
            start = head(event)


async def _break(connection: Connection, failure: ProxyError) -> None:
    """The error event that ends a stream for good. The connection may be gone: then nobody is there to be told."""
    connection.outcome = failure.code or failure.type
    if not connection.over:
        with contextlib.suppress(OSError):
            await connection.write(failures.event(failure, connection.style), more=connection.style.aborts)
        if connection.style.aborts:
            connection.over = True
            connection.cut()


def stopping() -> ProxyError:
    return Unavailable("the server is stopping; send it again", code="shutting_down", headers={"Retry-After": "5"})
