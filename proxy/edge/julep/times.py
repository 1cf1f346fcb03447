"""Times and ids as the Sessions API shows them."""

import hashlib
import uuid
from datetime import UTC, datetime

from proxy.errors import Invalid


def shown(epoch_ms: int) -> datetime:
    """UTC, to the millisecond."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def taken(when: datetime) -> int:
    """Epoch milliseconds; a time without a zone is taken as UTC."""
    return round((when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp() * 1000)


def derived(*parts: object) -> str:
    """A UUID made of what names a thing: the same parts give the same id, and no column is needed for it."""
    mark = hashlib.blake2b("\0".join(str(part) for part in parts).encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=mark, version=5))


def own_uuid(text: str, where: str) -> str:
    """An id that a client chooses for what it makes. Raises Invalid unless it is a UUID."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        loc = ["path", where]
        raise Invalid(f"{where} must be a UUID", [{"loc": loc, "msg": "Invalid UUID", "type": "uuid"}]) from None


def known(text: str) -> str:
    """An id in a path, in the form in which ids are stored."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return text
