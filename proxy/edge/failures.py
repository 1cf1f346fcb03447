"""ProxyError -> an error envelope, in /v1's style or Julep's: a response, or the last event of a broken stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from starlette.types import Send

from proxy.errors import Invalid, ProxyError, UpstreamError
from proxy.upstream import wire

KEYS = ("message", "type", "param", "code")

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Style:
    """How failures look. `aborts`: a stream's error event is followed by the end of the connection, for clients that
    take no notice of the event."""

    envelope: Callable[[ProxyError], bytes]
    aborts: bool


def _openai(failure: ProxyError) -> bytes:
    """The four-key envelope; an upstream's own JSON error is kept, with the keys it lacks."""
    if isinstance(failure, UpstreamError) and failure.body is not None:
        given = _fields(failure.body)
        error = _fields(given["error"])
        if all(key in error for key in KEYS):
            return failure.body
        return msgspec.json.encode({**given, "error": {**dict.fromkeys(KEYS), **error}})
    error = {"message": failure.message, "type": failure.type, "param": failure.param, "code": failure.code}
    return msgspec.json.encode({"error": error})


def _julep(failure: ProxyError) -> bytes:
    """{message, code, type, details}; with status 422 also FastAPI's `detail`."""
    message, code, kind = failure.message, failure.code, failure.type
    if isinstance(failure, UpstreamError) and failure.body is not None:
        given = msgspec.json.decode(failure.body)["error"]
        message, kind = str(given.get("message") or message), str(given.get("type") or kind)
        code = None if given.get("code") is None else str(given["code"])
    if failure.param and failure.param not in message:
        message = f"{failure.param}: {message}"
    details = failure.details if isinstance(failure, Invalid) else None
    error = {"message": message, "code": code or f"http_{failure.status}", "type": kind, "details": details}
    if failure.status == 422:
        detail = details or [{"loc": ["body"], "msg": message, "type": code or kind}]
        return msgspec.json.encode({"error": error, "detail": detail})
    return msgspec.json.encode({"error": error})


OPENAI = Style(_openai, aborts=False)
JULEP = Style(_julep, aborts=True)


def event(failure: ProxyError, style: Style) -> bytes:
    """The last event of a stream that breaks; [DONE] does not follow."""
    return wire.event(style.envelope(failure))


async def respond(send: Send, failure: ProxyError, headers: Mapping[str, str], style: Style = OPENAI) -> None:
    """The failure as a whole response."""
    body = style.envelope(failure)
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
