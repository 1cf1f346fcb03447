"""ProxyError -> the error envelope of /v1, as a response or as the last event of a broken stream."""

from collections.abc import Mapping

import msgspec
from starlette.types import Send

from proxy.errors import ProxyError, UpstreamRefused
from proxy.upstream import wire

KEYS = ("message", "type", "param", "code")


def envelope(failure: ProxyError) -> bytes:
    """The four-key envelope; an upstream's own JSON error is kept, with the keys it lacks."""
    if isinstance(failure, UpstreamRefused) and failure.body is not None:
        given = msgspec.json.decode(failure.body)
        error = given["error"]
        if all(key in error for key in KEYS):
            return failure.body
        return msgspec.json.encode({**given, "error": dict.fromkeys(KEYS) | error})
    error = {"message": failure.message, "type": failure.type, "param": failure.param, "code": failure.code}
    return msgspec.json.encode({"error": error})


def event(failure: ProxyError) -> bytes:
    """The last event of a stream that breaks; [DONE] does not follow."""
    return wire.event(envelope(failure))


async def respond(send: Send, failure: ProxyError, headers: Mapping[str, str]) -> None:
    """The failure as a whole response."""
    body = envelope(failure)
    given = {**headers, **{name.lower(): value for name, value in failure.headers.items()}}
    given |= {"content-type": "application/json", "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": failure.status,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
