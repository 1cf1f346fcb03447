"""What each status of a failure means, as /openapi.json tells it."""

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

PASSED_ON = 0
"""A model server's own status."""

MEANINGS = {
    PASSED_ON: ("UpstreamRefused", "The model server's own error, with its own status."),
    400: ("BadRequest", "The request asks for what cannot be; the message says what to do."),
    401: ("Unauthorized", "The key is missing or wrong."),
    403: ("Forbidden", "The key is missing or wrong, or may not do this."),
    404: ("NotFound", "There is no such thing, or it is somebody else's."),
    408: ("RequestTimeout", "The body did not arrive in time."),
    409: ("Conflict", "The session is busy: ask again after `Retry-After`. Or the name is taken."),
    413: ("TooLarge", "The body or the document is too large."),
    415: ("UnsupportedMedia", "The body is not `application/json`."),
    422: ("Invalid", "A field does not fit its type, or a key of a retry was used for another request."),
    429: ("TooManyRequests", "Too many requests are running: ask again after `Retry-After`."),
    501: ("NotConfigured", "A part that this takes is not installed or switched off; the message says what to do."),
    502: ("UpstreamError", "The model server cannot be reached, or its answer broke off."),
    503: ("Unavailable", "The storage is down or the server is stopping: ask again."),
    504: ("UpstreamTimeout", "The model server did not answer in time."),
}


def refusals(codes: Iterable[int], style: str = "") -> Json:
    """The responses of an operation that fails with these. `style` is the envelope's name in front of theirs."""
    places = {str(code or "default"): MEANINGS[code][0] for code in sorted(set(codes), key=lambda code: code or 999)}
    return {place: {"$ref": f"#/components/responses/{style}{name}"} for place, name in places.items()}


def responses(schema: Json, style: str = "") -> Json:
    """All of them, in the envelope of that schema."""
    content = {"application/json": {"schema": schema}}
    return {style + name: {"description": said, "content": content} for name, said in MEANINGS.values()}
