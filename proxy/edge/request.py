"""A request's frame: method, path, headers, and its id."""

import time
from collections.abc import Mapping
from random import getrandbits

import msgspec
from starlette.types import Scope as AsgiScope

LISTS = frozenset({b"accept", b"accept-language", b"anthropic-beta", b"openai-beta", b"tracestate"})
"""Headers that may be sent several times, which means one list. Of others the last one counts."""


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
    if len(headers) != len(scope["headers"]):
        headers |= {name: b", ".join(_every(scope, name)) for name in headers if name in LISTS}
    return Request(
        scope["method"], scope["path"], scope["query_string"], headers, request_id(headers), time.perf_counter()
    )


def passed_on(query: bytes) -> str:
    """What of a chat request's query goes upstream, with its question mark: `preview` is ours."""
    if not query:
        return ""
    kept = [part for part in query.split(b"&") if part and part.partition(b"=")[0] != b"preview"]
    return "?" + b"&".join(kept).decode("latin-1") if kept else ""


def _every(scope: AsgiScope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """The client's X-Request-Id where it is usable, else a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if 0 < len(given) <= 256 and given.isascii() and given.isprintable() else f"req_{getrandbits(96):024x}"
