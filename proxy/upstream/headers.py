"""Which of a client's headers an upstream may see: an allow-list, the upstream's key, and nothing else; and what an
answer's headers say of its type. Pure."""

from collections.abc import Iterable, Mapping

from proxy.config import UpstreamConfig
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
        b"x-request-id",
    }
)
FORWARDED_PREFIXES = (b"openai-", b"anthropic-")


def upstream_headers(
    credential: bytes | None,
    upstream: UpstreamConfig,
    headers: Mapping[bytes, bytes],
    media: bytes = b"application/json",
) -> Headers:
    """Never the client's credentials, cookies, X-Session-* or X-Forwarded-*. `credential`: the key that goes up in
    place of the upstream's own."""
    out = [
        (name, value)
        for name, value in headers.items()
        if name in FORWARDED or name.startswith(FORWARDED_PREFIXES) or name in upstream.forwarded
    ]
    if media:
        out.append((b"content-type", media))
    out.append((b"accept", headers.get(b"accept", b"*/*")))
    key = credential if credential is not None else upstream.api_key.encode()
    if key:
        out.append((b"authorization", b"Bearer " + key))
    return tuple(out)


def has_media(headers: Iterable[tuple[bytes, bytes]], prefix: bytes) -> bool:
    """Whether the headers, whose names are in lower case, give a content type that begins so."""
    return any(name == b"content-type" and value.lower().startswith(prefix) for name, value in headers)
