"""A request's frame: method, path, headers, and its id."""

import time
from collections.abc import Mapping
from random import getrandbits

import msgspec
from starlette.types import Scope as AsgiScope


class Request(msgspec.Struct, frozen=True, gc=False):
    """Method, path and headers of a request; `id` is the client's X-Request-Id or a new one, `started` monotonic."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    id: str
    started: float


def frame(scope: AsgiScope) -> Request:
    """The frame of an ASGI request."""
    headers = dict(scope["headers"])
    return Request(
        scope["method"], scope["path"], scope["query_string"], headers, request_id(headers), time.perf_counter()
    )


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """The client's X-Request-Id where it is usable, else a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if 0 < len(given) <= 256 and given.isascii() and given.isprintable() else f"req_{getrandbits(96):024x}"
