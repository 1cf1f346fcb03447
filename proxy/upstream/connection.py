"""One keep-alive connection to a model server: the bytes of one exchange at a time, and the answer read from it.

Intentional: no general HTTP client. This one costs about a quarter of aiohttp's CPU, because a small answer
is one write, one parse and one wake-up, and because limits are one timer per connection that is moved, not re-made.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import cast

import httptools

from proxy.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.inflate import Inflate
from proxy.upstream.protocol import Headers, Timeouts

HEADER_LIMIT = 64 * 1024
"""Bytes an answer may send before its body, or between two parts of it."""

HIGH_WATER = 64 * 1024
"""Bytes waiting for the reader from which on no more are read from the socket."""

STALE_S = 0.1
"""A kept connection that is lost this soon after a request was written was closed before it."""

IDLE_LIMIT_S = 30.0
"""A pooled connection not used for so long is closed: load balancers drop theirs after 60 s and more."""


class Connection(asyncio.Protocol):
    """A socket and the state of its current exchange: `ask`, then `take` until b"", then `rest` or `abort`.

    `dropped(self)` is called when a resting connection is lost; a busy one tells whoever reads from it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeouts: Timeouts, dropped: Callable[["Connection"], None]
    ) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._dropped = dropped
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self.on_body = self._chunks.append  # the parser calls it: no Python frame per chunk
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._asked = 0
        self._resting = self._dead = self._paused = False
        self._begin(0.0)

    def _begin(self, started: float) -> None:
        """A clean slate for an exchange whose total time runs since `started`."""
        self._headers.clear()
        self._chunks.clear()
        self._buffered = 0
        self._unseen = 0
        self._heard = self._in_body = self._interim = self._resting = False
        self._answered = self._complete = self._keep = False
        self._error: UpstreamError | None = None
        self._status = 0
        self._total_at = started + self._timeouts.total
        self._asked_at = self._heard_at = self._lost_at = 0.0

    # --- what the client calls ---

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow: the last answer is whole and the peer wants to go on."""
        return self._complete and self._keep and not self._dead

    @property
    def stale(self) -> bool:
        """Whether the peer closed between two exchanges: the loss came right after the request was written, so that it
        was hardly read, and asking anew is safe."""
        return self._dead and self._asked > 1 and not self._heard and self._lost_at - self._asked_at < STALE_S

    def fresh(self) -> bool:
        """Whether a resting connection may be used: alive, and not so old that the peer is about to close it."""
        return not self._dead and self._loop.time() - self._heard_at < IDLE_LIMIT_S

    async def ask(self, head: bytes, body: bytes, started: float) -> tuple[int, Headers]:
        """Writes a request and waits for status and headers. Raises UpstreamUnreachable or UpstreamTimeout."""
        self._begin(started)
        self._asked += 1
        transport = self._transport
        if transport is None or self._dead or transport.is_closing():
            self.abort()
            raise UpstreamUnreachable("the connection to the upstream was closed before the request was sent")
        transport.write(head + body)
        self._asked_at = self._loop.time()
        self._watch(min(self._asked_at + self._timeouts.first_byte, self._total_at))
        while not self._answered:
            if self._error is not None:
                raise self._error
            await self.news()
        return self._status, tuple(self._headers)

    def take(self) -> bytes | None:
        """All that has come since the last take; None if nothing has, which `news` tells; b"" at the end.

        Raises UpstreamBroken or UpstreamTimeout, after all that came before the trouble has been taken.
        """
        chunks = self._chunks
        if not chunks:
            if self._error is not None:
                raise self._error
            return b"" if self._complete else None
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        if self._paused:
            self._resume()
        return data

    def news(self) -> asyncio.Future[None]:
        """Done when anything has happened; cancelling it harms nothing."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def rest(self) -> None:
        """Waits for the next exchange, at most IDLE_LIMIT_S."""
        self._chunks.clear()
        self._resting = True
        if self._paused:
            self._resume()
        self._heard_at = self._loop.time()
        self._watch(self._heard_at + IDLE_LIMIT_S)

    def abort(self, error: UpstreamError | None = None) -> None:
        """Closes at once, without a farewell, which is what tells the peer to stop. Whoever reads gets `error`."""
        if self._error is None and not self._complete:
            self._error = error or UpstreamBroken("the answer was closed while it was being read")
        self._dead = True
        self._lost_at = self._loop.time()
        self._timer_at = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        self._wake()
        if self._resting:
            self._resting = False
            self._dropped(self)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _resume(self) -> None:
        self._paused = False
        self._heard_at = self._loop.time()  # the silence while nobody read was ours
        if self._transport is not None and not self._dead:
            self._transport.resume_reading()
            self._watch(self._due())

    # --- limits: one timer, armed for the earliest deadline known; later deadlines only move `_due` ---

    def _due(self) -> float:
        if self._resting:
            return self._heard_at + IDLE_LIMIT_S
        if self._complete:
            return inf
        if not self._in_body:
            return min(self._asked_at + self._timeouts.first_byte, self._total_at)
        return self._total_at if self._paused else min(self._heard_at + self._timeouts.idle, self._total_at)

    def _watch(self, due: float) -> None:
        if due >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, inf
        due = self._due()
        if self._loop.time() < due:
            self._watch(due)
            return
        t = self._timeouts
        if due == self._total_at:
            text = f"the upstream was not done after {t.total:g} s; raise total_timeout_s or ask for a shorter answer"
        elif self._in_body:
            text = f"the upstream sent nothing for {t.idle:g} s; raise idle_timeout_s if its model pauses so long"
        else:
            text = (
                f"the upstream sent nothing for {t.first_byte:g} s; raise first_byte_timeout_s if its model starts late"
            )
        self.abort(UpstreamTimeout(text))

    # --- called by the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by class, only by their methods
        if self._dead:  # nobody waits for it any more
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._complete or self._asked == 0:
            self._keep = False
            self.abort()  # bytes nobody asked for: what follows cannot be trusted to be ours
            return
        self._heard = True
        self._heard_at = self._loop.time()
        answered = self._answered
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._keep = False
            if not self._complete:
                self._break("sent something that is not HTTP", exc)
                return
        if not answered and self._unseen + len(data) > HEADER_LIMIT and self._too_many_headers():
            return
        if self._chunks:
            self._unseen = 0
            self._buffered += len(data)
            if self._buffered > HIGH_WATER and not self._complete:
                self._pause()
            if not self._in_body:
                self._in_body = True
                if not self._complete:
                    self._watch(self._due())
        else:
            self._unseen += len(data)
            if self._unseen > HEADER_LIMIT:
                self._break("sent more than 64 KB of trailers", None)
                return
        self._wake()

    def eof_received(self) -> None:
        self._lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)
        self._transport = None

    def _lost(self, exc: Exception | None) -> None:
        if self._dead:
            return
        if exc is None and self._answered and not self._complete and self._ends_with_the_connection():
            self._complete = True
        if self._complete:
            self.abort()
        else:
            self._break("closed the connection", exc)

    def _break(self, what: str, exc: Exception | None) -> None:
        error: UpstreamError
        if self._answered:
            error = UpstreamBroken(f"the upstream {what} before its answer was complete; ask again")
        else:
            error = UpstreamUnreachable(f"the upstream {what} before it answered; check its log, or ask again")
        error.__cause__ = exc
        self.abort(error)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _too_many_headers(self) -> bool:
        """Counts the headers alone of a read that may have brought some of the body too."""
        if self._answered and sum(len(name) + len(value) + 4 for name, value in self._headers) <= HEADER_LIMIT:
            return False
        self._answered = self._complete = False
        self._break("sent more than 64 KB of headers", None)
        return True

    def _ends_with_the_connection(self) -> bool:
        return not any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")  # stops the parser: its body must not join ours

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._answered:  # else a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._interim = True
            self._headers.clear()
            return
        self._status = status
        self._answered = True
        self._keep = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        else:
            self._complete = True


class HttpAnswer:
    """An answer whose headers have come; see `protocol.Answer`. `give_back` gets the connection, once."""

    __slots__ = ("_connection", "_give_back", "_inflate", "headers", "status")

    def __init__(
        self, connection: Connection, status: int, headers: Headers, give_back: Callable[[Connection], None]
    ) -> None:
        self.status = status
        self.headers = headers
        self._connection: Connection | None = connection
        self._give_back = give_back
        self._inflate: Inflate | None = None
        for name, value in headers:
            if name == b"content-encoding" and value.lower() in (b"gzip", b"x-gzip", b"deflate"):
                self._inflate = Inflate(value.lower())
                self.headers = tuple(h for h in headers if h[0] not in (b"content-encoding", b"content-length"))

    def __aiter__(self) -> "HttpAnswer":
        return self

    async def __anext__(self) -> bytes:
        connection = self._connection
        if connection is None:
            raise UpstreamBroken("the answer was closed before it was read")
        while (data := connection.take() if self._inflate is None else _unpack(connection, self._inflate)) is None:
            await connection.news()
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._give_back(connection)


def _unpack(connection: Connection, inflate: Inflate) -> bytes | None:
    """Like `Connection.take`, decoded. No more is taken from the connection than one piece needs."""
    while not (out := inflate.step()):
        data = connection.take()
        if not data:
            if data is not None:
                inflate.end()
            return data
        inflate.feed(data)
    return out
