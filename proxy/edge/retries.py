"""What shows that a request is a retry: a key, the SDKs' counter, and what it shares with its original."""

import hashlib
from collections.abc import Mapping

from proxy.errors import BadRequest

KEY_LENGTH = 255


def is_retry(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the SDK says that it sends the request again."""
    return headers.get(b"x-stainless-retry-count", b"0") not in (b"", b"0")


def idempotency_key(headers: Mapping[bytes, bytes]) -> str:
    """The Idempotency-Key, empty for none. Raises BadRequest for one of more than 255 characters."""
    key = headers.get(b"idempotency-key", b"").decode("latin-1")
    if len(key) > KEY_LENGTH:
        raise BadRequest(
            f"Idempotency-Key has {len(key)} characters, the limit is {KEY_LENGTH}", param="Idempotency-Key"
        )
    return key


def fingerprint(raw: bytes, headers: Mapping[bytes, bytes]) -> bytes:
    """What a retry shares with its original: the body and the X-Session-* headers."""
    mark = hashlib.blake2b(raw, digest_size=16)
    for name in sorted(name for name in headers if name.startswith(b"x-session-")):
        mark.update(b"\0" + name + b"\0" + headers[name])
    return mark.digest()
