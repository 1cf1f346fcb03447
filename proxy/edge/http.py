"""The server's HTTP protocol with what uvicorn lacks: limits on the headers, and a word when a client hangs up."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT = "session_proxy.abort"
"""The key of an ASGI scope under which the connection can be cut at once: a close would wait for a client that reads
nothing."""

WATCH = "session_proxy.watch"
"""The key of an ASGI scope under which `GuardedProtocol.watch` stands."""

UNWATCH = "session_proxy.unwatch"
"""The key of an ASGI scope under which `GuardedProtocol.unwatch` stands."""

HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 10.0

TOO_LARGE = (
    b'{"error":{"message":"the headers are larger than 64 KB; send less","type":"invalid_request_error",'
    b'"param":"headers","code":"headers_too_large"}}'
)
UNREADABLE = (
    b'{"error":{"message":"this cannot be read as an HTTP request","type":"invalid_request_error",'
    b'"param":null,"code":"invalid_http"}}'
)


def _unended(data: bytes) -> bool:
    """Whether the headers in what just came are too large: a large body may follow small ones in one read."""
    end = data.find(b"\r\n\r\n")
    return end < 0 or end > HEADER_BYTES


class GuardedProtocol(HttpToolsProtocol):
    """Closes a connection whose headers do not come within 10 s, and answers 431 to more than 64 KB of them."""

    _head = 0
    _late: asyncio.TimerHandle | None = None
    _left: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._late = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)
        if self._left is not None:
            self._left()

    def watch(self, left: Callable[[], None]) -> None:
        """Has `left` called when the client hangs up, soon if it has; until it is unwatched, or another takes its
        place. To await `http.disconnect` instead takes a task for each request."""
        self._left = left
        if self.transport.is_closing():
            self.loop.call_soon(left)

    def unwatch(self, left: Callable[[], None]) -> None:
        """Calls `left` no more. The connection's next request may have taken its place: that one stays."""
        if self._left == left:
            self._left = None

    def data_received(self, data: bytes) -> None:
        if self._late is None and self._head == 0 and (self.cycle is None or self.cycle.response_complete):
            self._late = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        if self._late is not None:
            self._head += len(data)
        if self._late is not None and self._head > HEADER_BYTES and _unended(data):
            self._end(b"431 Request Header Fields Too Large", TOO_LARGE)
            return
        super().data_received(data)

    def timeout_keep_alive_handler(self) -> None:
        """A client that has not read its answer by now never will: a close would wait for it for good."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._end(b"400 Bad Request", UNREADABLE)

    def _end(self, status: bytes, content: bytes) -> None:
        head = b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\n"
        self.transport.write(head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(content) + content)
        self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_time()
        super().on_headers_complete()
        scope = cast("dict[str, Any]", self.scope)  # the request's task starts after this callback
        scope[ABORT], scope[WATCH], scope[UNWATCH] = self.transport.abort, self.watch, self.unwatch

    def _in_time(self) -> None:
        self._head = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None
