"""A request's frame: its id, and which of its headers an upstream may see."""

import time
from collections.abc import Mapping
from random import getrandbits

import msgspec
from starlette.types import Scope as AsgiScope

from proxy.config import UpstreamConfig
from proxy.types import Scope
from proxy.upstream.protocol import Headers

FORWARDED = frozenset(
    {
        b"traceparent",
        b"tracestate",
        b"idempotency-key",
        b"http-referer",
        b"x-title",
        b"accept-language",
        b"user-agent",
    }
)
FORWARDED_PREFIXES = (b"openai-", b"anthropic-")


class Request(msgspec.Struct, frozen=True, gc=False):
    """Method, path and headers of a request; `id` is the client's X-Request-Id or a new one, `started` monotonic."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    id: str
    started: float


def frame(scope: AsgiScope) -> Request:
    headers = dict(scope["headers"])
    return Request(
        scope["method"], scope["path"], scope["query_string"], headers, request_id(headers), time.perf_counter()
    )


def request_id(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if 0 < len(given) <= 256 and given.isascii() and given.isprintable() else f"req_{getrandbits(96):024x}"


def upstream_headers(
    who: Scope, upstream: UpstreamConfig, headers: Mapping[bytes, bytes], media: bytes = b"application/json"
) -> Headers:
    """An allow-list: never credentials (but the upstream's own), cookies, X-Session-* or X-Forwarded-*."""
    out = [
        (name, value)
        for name, value in headers.items()
        if name in FORWARDED or name.startswith(FORWARDED_PREFIXES) or name in upstream.forwarded
    ]
    if media:
        out.append((b"content-type", media))
    out.append((b"accept", headers.get(b"accept", b"*/*")))
    key = who.credential if who.credential is not None else upstream.api_key.encode()
    if key:
        out.append((b"authorization", b"Bearer " + key))
    return tuple(out)
