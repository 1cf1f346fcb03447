"""Every failure a client can see, as one drawn tree. A leaf: imports nothing of the product.

ProxyError                      what the edge renders: status, message, type, code, param, headers
├── BadRequest            400   the request names a thing wrongly; `param` says which
│   └── ContextTooLong    400   what must be sent does not fit the token budget
├── Unauthorized          401   no key, or a wrong one
├── Forbidden             403   a key that may not do this, or a foreign Host
├── NotFound              404   unknown, or somebody else's: the same bytes
├── MethodNotAllowed      405
├── RequestTimeout        408   the client did not send its body in time
├── Conflict              409   busy session (retry), deleted session (do not)
├── TooLarge              413
├── Unprocessable         422   an idempotency key used for another body
│   └── Invalid           422   a field of a Sessions API request; `details` says which
├── TooManyRequests       429
├── NotConfigured         501   an optional part that is not installed, or switched off
├── Unavailable           503   storage down, or the server is draining
│   └── StoredUnsynced          committed, but the disk failed to confirm it
└── UpstreamError               the model server
    ├── UpstreamRefused   as is it answered with an error: status, type, code, Retry-After are kept
    ├── UpstreamUnreachable 502 refused, reset or garbage before the first byte
    ├── UpstreamTimeout   504   no first byte, silence, or the total time is over
    └── UpstreamBroken    502   it broke after the first byte
"""

from collections.abc import Mapping, Sequence


class ProxyError(Exception):
    """A failure with everything the edge needs to render it.

    `message` says what was wrong, where, and what to do; it never holds texts of users, keys, paths or host names.
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else type(self).code
        self.headers = dict(headers or {})


class BadRequest(ProxyError):
    status = 400
    type = "invalid_request_error"


class ContextTooLong(BadRequest):
    code = "context_length_exceeded"


class Unauthorized(ProxyError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(ProxyError):
    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(ProxyError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(ProxyError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimeout(ProxyError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class Conflict(ProxyError):
    status = 409
    type = "conflict_error"


class TooLarge(ProxyError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Unprocessable(ProxyError):
    status = 422
    type = "invalid_request_error"


class Invalid(Unprocessable):
    """A request of the Sessions API that does not fit its schema. `details`: {loc, msg, type} of each problem."""

    code = "validation_error"

    def __init__(self, message: str, details: Sequence[Mapping[str, object]]) -> None:
        super().__init__(message)
        self.details = list(details)


class TooManyRequests(ProxyError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class NotConfigured(ProxyError):
    status = 501
    type = "server_error"
    code = "not_configured"


class Unavailable(ProxyError):
    status = 503
    type = "server_error"


class StoredUnsynced(Unavailable):
    """The turn is in the store, but the disk did not confirm it: it is not promised to last, and a retry gets it."""

    code = "storage_unavailable"


class UpstreamError(ProxyError):
    """`body`: the JSON envelope that the upstream sent, if it did."""

    status = 502
    type = "upstream_error"
    body: bytes | None = None


class UpstreamRefused(UpstreamError):
    """The upstream answered with an error status."""

    def __init__(self, status: int, message: str, *, body: bytes | None, headers: Mapping[str, str]) -> None:
        super().__init__(message, headers=headers)
        self.status = status
        self.body = body


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"


class UpstreamBroken(UpstreamError):
    code = "upstream_broken"


class BadConfig(Exception):
    """The configuration cannot be used; the message names the key, its line and the nearest valid key."""
