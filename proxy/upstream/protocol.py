"""What the product asks of a client for model servers. `client.py` is the one for the hot path."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import msgspec

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `first_byte`: from the call to the body's first byte; `idle`: between two reads; `total`: over all."""

    connect: float = 5.0
    first_byte: float = 60.0
    idle: float = 60.0
    total: float = 600.0


class Call(msgspec.Struct, frozen=True, gc=False):
    """One HTTP request to an upstream. `path` is appended to the base URL's path, e.g. "/chat/completions".

    `headers` are complete but for Host, Content-Length and Connection, which the client writes.
    """

    method: str
    path: str
    body: bytes
    headers: Headers


class Answer(Protocol):
    """An answer whose headers have come. Iterate it once for the body; always `aclose` it.

    Iterating raises UpstreamBroken when the connection ends early, UpstreamTimeout when a limit passes.
    """

    status: int
    headers: Headers
    """Names in lower case, in the order they came."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Gives a finished connection back; closes an unfinished one at once, which tells the upstream to stop."""
        ...


class Upstream(Protocol):
    """One model server. Safe under cancellation at every await: no connection is lost to the pool."""

    async def send(self, call: Call) -> Answer:
        """Raises UpstreamUnreachable (refused, reset, garbage) or UpstreamTimeout before any answer."""
        ...

    async def aclose(self) -> None: ...
