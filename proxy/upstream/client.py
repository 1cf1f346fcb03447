"""The HTTP client of the hot path: a pool of keep-alive connections to one model server."""

import asyncio
import socket
import ssl
from collections import deque

from proxy.errors import UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.connection import Connection, HttpAnswer
from proxy.upstream.protocol import Call, Timeouts
from proxy.upstream.request import head, target


class HttpUpstream:
    """`protocol.Upstream` over HTTP/1.1. Follows no redirect, uses no proxy, asks for no compression.

    A slot (one of `max_connections`) is held from `send` until the answer's `aclose`, and by each resting connection.
    Once it is retired, no connection rests.
    Raises BadConfig for a base URL that cannot be used. `ssl_context` defaults to one that verifies.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeouts: Timeouts,
        max_connections: int = 200,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._target = target(base_url)
        self._timeouts = timeouts
        self._max = max_connections
        self._ssl = ssl_context
        self._free = max_connections
        self._resting: list[Connection] = []  # the last used is the next to be used: the others may age and go
        self._all: set[Connection] = set()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._closed = self._retired = False

    async def send(self, call: Call) -> HttpAnswer:
        """The answer's status and headers. Raises UpstreamUnreachable or UpstreamTimeout; ValueError for a bad call."""
        first = head(self._target, call)
        started = asyncio.get_running_loop().time()
        connection = self._rested() or await self._take()
        while True:
            try:
                status, headers = await connection.ask(first, call.body, started)
            except BaseException as exc:
                if not (connection.stale and isinstance(exc, UpstreamUnreachable)):
                    self._give_back(connection)
                    raise
            else:
                return HttpAnswer(connection, status, headers, self._give_back)
            self._all.discard(connection)
            connection = await self._connect()  # in the same slot; a new connection is never stale, so this ends

    async def aclose(self) -> None:
        """Closes every connection, also those in use, and fails whoever waits for one."""
        self._closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(_closed())
        for connection in list(self._all):
            connection.abort(_closed())

    def retire(self) -> None:
        """For a client that no new request will use: those that have it still may send, and each connection is closed
        once it is done."""
        self._retired = True
        for connection in tuple(self._resting):
            connection.abort()  # calls _dropped, which takes it off the list

    # --- slots and connections ---

    def _rested(self) -> Connection | None:
        while self._resting:
            connection = self._resting[-1]
            if connection.fresh():
                return self._resting.pop()
            connection.abort()  # calls _dropped, which takes it off the list
        return None

    async def _take(self) -> Connection:
        """A connection nobody else uses, in a slot of its own."""
        if self._free:
            self._free -= 1
        else:
            handed = await self._wait()
            if handed is not None and handed.reusable:
                return handed
            if handed is not None:
                self._all.discard(handed)
        return await self._connect()

    async def _wait(self) -> Connection | None:
        """A connection handed over by whoever was done with it, or None for a slot without one."""
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        limit = self._timeouts.connect
        try:
            async with asyncio.timeout(limit):
                return await waiter
        except BaseException as exc:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(waiter.result())  # it came in the same moment as the cancellation
            if isinstance(exc, TimeoutError):
                raise UpstreamUnreachable(
                    f"all {self._max} connections to the upstream were in use for {limit:g} s; raise max_connections",
                    code="upstream_busy",
                ) from exc
            raise

    async def _connect(self) -> Connection:
        """A new connection for a slot already held; the slot is given back if this fails."""
        loop = asyncio.get_running_loop()
        connection = Connection(loop, self._timeouts, self._dropped)
        self._all.add(connection)
        done = False
        try:
            if self._closed:
                raise _closed()
            context = self._context()
            async with asyncio.timeout(self._timeouts.connect):
                await loop.create_connection(
                    lambda: connection,
                    self._target.host,
                    self._target.port,
                    ssl=context,
                    server_hostname=self._target.host if context else None,
                )
            done = True
        except TimeoutError as exc:
            raise UpstreamTimeout(
                f"no connection to the upstream within {self._timeouts.connect:g} s; raise connect_timeout_s"
            ) from exc
        except (OSError, UnicodeError) as exc:
            raise UpstreamUnreachable(_why(exc)) from exc
        finally:
            if not done:
                self._give_back(connection)
        return connection

    def _give_back(self, connection: Connection | None) -> None:
        """The end of holding a slot: the next waiter gets it, else the connection rests, else the slot is free."""
        if connection is not None and (self._closed or not connection.reusable):
            self._leave(connection)
            connection = None
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is None or self._retired:
            self._free += 1
            self._leave(connection)
        else:
            connection.rest()
            self._resting.append(connection)

    def _leave(self, connection: Connection | None) -> None:
        if connection is not None:
            self._all.discard(connection)
            connection.abort()

    def _dropped(self, connection: Connection) -> None:
        self._resting.remove(connection)
        self._all.discard(connection)
        self._free += 1  # nobody waits while a connection rests

    def _context(self) -> ssl.SSLContext | None:
        if self._target.tls and self._ssl is None:
            self._ssl = ssl.create_default_context()  # takes 20 ms: once, and only for https
        return self._ssl if self._target.tls else None


def _why(exc: Exception) -> str:
    """What went wrong while connecting, in words of ours: the library's name hosts and addresses."""
    if isinstance(exc, ConnectionRefusedError):
        return "the upstream refused the connection; check that it runs and that base_url is right"
    if isinstance(exc, socket.gaierror | UnicodeError):
        return "the upstream's name could not be resolved; check base_url and the DNS"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return "the upstream's certificate was not accepted; check base_url and the trusted certificates"
    if isinstance(exc, ssl.SSLError):
        return "the TLS handshake with the upstream failed; check that base_url should be https"
    if isinstance(exc, ConnectionError):
        return "the upstream closed the connection while it was being made; check base_url: http or https?"
    return "no connection to the upstream could be made; check base_url and the network"


def _closed() -> UpstreamUnreachable:
    return UpstreamUnreachable("the proxy is shutting down", code="upstream_closed")
